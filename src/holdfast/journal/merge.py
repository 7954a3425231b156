"""The row algebra: how two versions of one entry become one. Pure: no I/O, no time.

A row is `(kind, epoch, alive, body)`. The higher epoch wins whole; equal epochs join their bodies, each kind in
its own way and fields recursively. So `join` is commutative, associative and idempotent, and holds that have seen
the same rows agree, however late, often and in whatever order these came.

What comes to be where nothing ever was starts at the FLOOR epoch, so that two who create it join. Replacing,
deleting and adding anew start a new epoch: a deletion beats every edit of what was deleted, whenever that was
made, and no entry comes back with a part of its fields. The rejected alternative, that an edit later than the
deletion revives the entry, diverges as soon as one hold has dropped the deleted fields and another has not.

The order of a body's fields is local: what stood here first comes first. Order by arrival can't converge, and
equality of rows does not look at it.
"""

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec

from holdfast.errors import CorruptError, InvalidError

Stamp: TypeAlias = tuple[int, int]  # (hybrid clock stamp, node uid)
Kind: TypeAlias = Literal["value", "fields", "counter", "set", "records"]
Encode: TypeAlias = Callable[[Any], str]
Decode: TypeAlias = Callable[[Any], Any]  # takes text, and bytes where a serializer gave such

FLOOR: Stamp = (0, 0)
MAX_DEPTH = 64  # levels of dicts that merge by fields; a dict below them is one whole value
COUNTER_BITS = 1_000  # of the greatest int that a counter is given: far below where JSON and Python stop
NOTHING: frozenset[str] = frozenset()

_Pairs: TypeAlias = dict[int, tuple[int, int]]  # node: plus, minus
_Versions: TypeAlias = dict[str, tuple[Stamp, bool]]  # element of a set: its stamp, alive


class Row(NamedTuple):
    """One version of an entry or of a field; never changed. What `body` is depends on `kind`:

    value    the encoded value, text or a serializer's bytes; its epoch is the stamp of the write
    fields   {name: Row}
    counter  {node: (plus, minus)}; reads as the sum of all plus less the sum of all minus
    set      {element as JSON text: (Stamp, alive)}
    records  {(node, position): text}

    A dead row is of kind value with body None, whatever it was before.
    """

    kind: Kind
    epoch: Stamp
    alive: bool
    body: Any


# -- joining --------------------------------------------------------------------------------------------------


def join(a: Row, b: Row) -> Row:
    """What both say together: commutative, associative, idempotent, and defined for any two rows."""
    if a.epoch != b.epoch:
        return a if a.epoch > b.epoch else b
    # Equal stamps and different rows are real: at the floor, and in a copied file before it knows that it is one.
    if a.alive != b.alive:
        return b if a.alive else a
    if a.kind != b.kind:
        return a if _RANK[a.kind] > _RANK[b.kind] else b
    return Row(a.kind, a.epoch, a.alive, _JOIN[a.kind](a.body, b.body))


def _join_values(a: str | bytes | None, b: str | bytes | None) -> str | bytes | None:
    return max(a, b, key=_order)


def _order(body: str | bytes | None) -> tuple[int, Any]:
    """None before text before bytes, which can't be compared with each other."""
    return (0, 0) if body is None else (1, body) if isinstance(body, str) else (2, body)


def _join_fields(a: dict[str, Row], b: dict[str, Row]) -> dict[str, Row]:
    joined = dict(a)
    for name, theirs in b.items():
        ours = joined.get(name)
        joined[name] = theirs if ours is None else join(ours, theirs)
    return joined


def _join_counters(a: _Pairs, b: _Pairs) -> _Pairs:
    joined = dict(a)
    for node, (plus, minus) in b.items():
        # Only the node itself steps its own pair, and only upwards: the greater is the later one.
        mine = joined.get(node, (0, 0))
        joined[node] = max(mine[0], plus), max(mine[1], minus)
    return joined


def _join_sets(a: _Versions, b: _Versions) -> _Versions:
    joined = dict(a)
    for element, theirs in b.items():
        joined[element] = max(joined.get(element, theirs), theirs, key=_removal_last)
    return joined


def _removal_last(version: tuple[Stamp, bool]) -> tuple[Stamp, bool]:
    stamp, alive = version
    return stamp, not alive


def _join_records(a: dict[Stamp, str], b: dict[Stamp, str]) -> dict[Stamp, str]:
    joined = dict(a)
    for place, text in b.items():
        joined[place] = max(joined.get(place, text), text)
    return joined


_JOIN: dict[Kind, Callable[[Any, Any], Any]] = {
    "value": _join_values,
    "fields": _join_fields,
    "counter": _join_counters,
    "set": _join_sets,
    "records": _join_records,
}
# Which kind wins where one stamp has two: any fixed order will do.
_RANK: dict[Kind, int] = {kind: rank for rank, kind in enumerate(_JOIN)}


# -- reading --------------------------------------------------------------------------------------------------


def newest(row: Row) -> int:
    """The greatest hybrid stamp anywhere in the row. Counters and records carry none but their epoch's."""
    if row.kind == "fields":
        return max((row.epoch[0], *map(newest, row.body.values())))
    if row.kind == "set":
        versions: _Versions = row.body
        return max((row.epoch[0], *(stamp[0] for stamp, _ in versions.values())))
    return row.epoch[0]


def value(row: Row, decode: Decode) -> Any:
    """What the row reads as. A set is a list sorted by encoded element; a dead row is None: look at `alive`."""
    if not row.alive:
        return None
    body = row.body
    if row.kind == "fields":
        return {name: value(field, decode) for name, field in body.items() if field.alive}
    if row.kind == "counter":
        return _total(body)
    if row.kind == "set":
        return [decode(element) for element in _elements(body)]
    if row.kind == "records":
        return [decode(body[place]) for place in sorted(body)]
    return decode(body)


def _total(body: _Pairs) -> int:
    return sum(plus - minus for plus, minus in body.values())


def _elements(body: _Versions) -> list[str]:
    return sorted(element for element, (_, alive) in body.items() if alive)


def without(row: Row, names: frozenset[str]) -> Row:
    """The row less the named top-level fields; a row of another kind, or without such fields, is given back.

    There is always a row left, if one with no fields: an entry all of whose fields are local exists elsewhere
    too. Whoever sends deltas leaves out one whose body this has emptied.
    """
    if row.kind != "fields" or names.isdisjoint(row.body):
        return row
    return row._replace(body={name: field for name, field in row.body.items() if name not in names})


# -- writing --------------------------------------------------------------------------------------------------


def difference(
    old: Row | None,
    new_value: dict[str, Any],
    stamp: Stamp,
    encode: Encode,
    *,
    counters: frozenset[str] = NOTHING,
    sets: frozenset[str] = NOTHING,
) -> Row | None:
    """The delta row of a local write: joined to `old`, it reads as `new_value`. None when nothing differs.

    A delta holds only the fields that differ, so it reads as a part of the entry until it is joined to a row that
    has seen `old`; whole rows have no such need. `stamp` is later than any in `old`; `old` is None where the entry
    never existed. Dicts merge recursively; lists are whole values; encoded texts are compared. The top-level fields
    in `counters` are ints, and step by the difference; those in `sets` are lists without duplicates, and differ
    by element. A field that already is a counter or a set stays one while it is given an int or a list, so a
    hold that was not told which fields merge how does not undo what others count.

    Raises InvalidError, naming the field, for what a counter or set can't hold.
    """
    writer = _Writer(stamp, encode, counters, sets)
    if old is None:
        return writer.new(new_value, FLOOR, 0)
    if not old.alive or old.kind != "fields":
        return writer.new(new_value, stamp, 0)
    return writer.changed(old, new_value, 0)


def replacement(
    new_value: dict[str, Any],
    stamp: Stamp,
    encode: Encode,
    *,
    counters: frozenset[str] = NOTHING,
    sets: frozenset[str] = NOTHING,
) -> Row:
    """A whole new row in an epoch of its own: what was there before, and all concurrent edits of that, are gone.

    Raises InvalidError as `difference` does.
    """
    return _Writer(stamp, encode, counters, sets).new(new_value, stamp, 0)


def deletion(kind: Kind, stamp: Stamp) -> Row:
    """The dead row that ends an entry of any `kind`: they all end alike, so that every hold keeps the same one."""
    del kind
    return _dead(stamp)


def _dead(stamp: Stamp) -> Row:
    return Row("value", stamp, False, None)


class _Writer(NamedTuple):
    """One local write: its stamp, its encoding, and which top-level fields merge in a way of their own."""

    stamp: Stamp
    encode: Encode
    counters: frozenset[str]
    sets: frozenset[str]

    def new(self, new_value: dict[str, Any], epoch: Stamp, depth: int) -> Row:
        field = self._field
        body = {name: field(name, None, one, depth) for name, one in new_value.items()}
        return Row("fields", epoch, True, body)

    def changed(self, old: Row, new_value: dict[str, Any], depth: int) -> Row | None:
        fields = old.body
        field = self._field
        changes = {}
        for name, one in new_value.items():
            change = field(name, fields.get(name), one, depth)
            if change is not None:
                changes[name] = change
        for name, row in fields.items():
            if row.alive and name not in new_value:
                changes[name] = _dead(self.stamp)
        return Row("fields", old.epoch, True, changes) if changes else None

    def _field(self, name: str, old: Row | None, one: Any, depth: int) -> Row | None:
        kind = "value" if old is None else old.kind
        if old is not None and kind == "value" and old.alive and old.body == self.encode(one):
            return None
        top = depth == 0
        if (top and name in self.counters) or (kind == "counter" and one.__class__ is int):
            return self._counter(name, old, one)
        if (top and name in self.sets) or (kind == "set" and isinstance(one, list)):
            return self._set(name, old, one)
        if isinstance(one, dict) and depth < MAX_DEPTH:
            return self._dict(old, one, depth + 1)
        return Row("value", self.stamp, True, self.encode(one))

    def _dict(self, old: Row | None, one: dict[str, Any], depth: int) -> Row | None:
        if old is not None and old.kind == "fields":
            return self.changed(old, one, depth)
        return self.new(one, self._first_epoch(old), depth)

    def _first_epoch(self, old: Row | None) -> Stamp:
        """Where nothing ever was, who creates the same joins; what stood here otherwise is outlived."""
        return FLOOR if old is None else self.stamp

    def _counter(self, name: str, old: Row | None, one: Any) -> Row | None:
        if one.__class__ is not int or one.bit_length() > COUNTER_BITS:
            found = "one of so many digits" if one.__class__ is int else type(one).__name__
            raise InvalidError(
                f"the field {name!r} is a counter, which holds an int and not {found}: "
                "give it an int, or use a field that is no counter"
            )
        standing = old is not None and old.kind == "counter"
        epoch, body = (old.epoch, old.body) if old is not None and standing else (self._first_epoch(old), {})
        step = one - _total(body)
        if step == 0:
            return None if standing else Row("counter", epoch, True, {})
        node = self.stamp[1]
        plus, minus = body.get(node, (0, 0))
        return Row("counter", epoch, True, {node: (plus + max(step, 0), minus + max(-step, 0))})

    def _set(self, name: str, old: Row | None, one: Any) -> Row | None:
        wanted = self._unique(name, one)
        standing = old is not None and old.kind == "set"
        epoch, body = (old.epoch, old.body) if old is not None and standing else (self._first_epoch(old), {})
        present = dict.fromkeys(_elements(body))
        changes = {element: (self.stamp, True) for element in wanted if element not in present}
        changes.update((element, (self.stamp, False)) for element in present if element not in wanted)
        return Row("set", epoch, True, changes) if changes or not standing else None

    def _unique(self, name: str, one: Any) -> dict[str, None]:
        wanted = dict.fromkeys(map(self.encode, one)) if isinstance(one, list) else {}
        if not isinstance(one, list) or len(wanted) != len(one):
            found = "one with duplicates" if isinstance(one, list) else type(one).__name__
            raise InvalidError(
                f"the field {name!r} is a set, which holds a list of different values and not {found}: "
                "give it such a list, or use a field that is no set"
            )
        return wanted


# -- bytes ----------------------------------------------------------------------------------------------------
# One byte of format, then msgpack. A row repeats few stamps, so they are listed once and named by their place in
# the list; a place p of what is dead is written ~p. Readers check everything: the bytes may come from anyone.

_FORMAT = b"\x01"
_Whole = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Count = _Whole | Annotated[bytes, msgspec.Meta(max_length=COUNTER_BITS // 4)]  # bytes past 63 bits
_StampList = list[tuple[_Whole, _Whole]]


class _Text(msgspec.Struct, array_like=True, tag=0, forbid_unknown_fields=True, gc=False):
    at: _Whole
    text: str


class _Blob(msgspec.Struct, array_like=True, tag=1, forbid_unknown_fields=True, gc=False):
    at: _Whole
    blob: bytes


class _Fields(msgspec.Struct, array_like=True, tag=2, forbid_unknown_fields=True):
    at: _Whole
    fields: dict[str, "_Node"]


class _Counter(msgspec.Struct, array_like=True, tag=3, forbid_unknown_fields=True):
    at: _Whole
    steps: list[tuple[_Whole, _Count, _Count]]  # node, plus, minus


class _Set(msgspec.Struct, array_like=True, tag=4, forbid_unknown_fields=True):
    at: _Whole
    elements: dict[str, int]


class _Records(msgspec.Struct, array_like=True, tag=5, forbid_unknown_fields=True):
    at: _Whole
    records: list[tuple[_Whole, _Whole, str]]  # node, position, text


_Node = int | _Text | _Blob | _Fields | _Counter | _Set | _Records


class _Stamps:
    """The stamps that a row's bytes name: `first` are known to the reader, the others are written along."""

    def __init__(self, *first: Stamp) -> None:
        self._given = len(first)
        self._places: dict[Stamp, int] = {}
        self._all: list[Stamp] = list(first)
        for at, stamp in enumerate(first):
            self._places.setdefault(stamp, at)

    def place(self, stamp: Stamp) -> int:
        found = self._places.get(stamp)
        if found is None:
            found = self._places[stamp] = len(self._all)
            self._all.append(stamp)
        return found

    def written(self) -> list[Stamp]:
        return self._all[self._given :]


def pack(row: Row) -> bytes:
    """The row as bytes, to send or to keep. Equal rows whose fields stand in another order differ in bytes."""
    stamps = _Stamps(FLOOR)
    node = _packed(row, stamps)
    return _FORMAT + msgspec.msgpack.encode((stamps.written(), node))


def unpack(packed: bytes) -> Row:
    """The row that `pack` wrote. Raises CorruptError for any other bytes."""
    try:
        written, node = _PACKED.decode(_after_format(packed))
        return _unpacked(node, [FLOOR, *written], 0)
    except _DAMAGE as error:
        raise _corrupt("a packed row", error) from error


_PACKED = msgspec.msgpack.Decoder(tuple[_StampList, _Node])
_DAMAGE = (msgspec.DecodeError, ValueError, IndexError, RecursionError)


def _after_format(stored: bytes) -> memoryview:
    if stored[:1] != _FORMAT:
        raise ValueError(f"its format is {stored[:1].hex() or 'missing'}, not {_FORMAT.hex()}")
    return memoryview(stored)[1:]


def _corrupt(what: str, error: Exception) -> CorruptError:
    return CorruptError(
        f"{what} can't be read ({error}): it is damaged or of a newer version of Holdfast; "
        "run `holdfast check` on the file it came from, or restore a backup"
    )


def _packed(row: Row, stamps: _Stamps) -> _Node:
    at = stamps.place(row.epoch)
    if not row.alive:
        return ~at
    body = row.body
    if row.kind == "value":
        return _Text(at, body) if isinstance(body, str) else _Blob(at, body)
    if row.kind == "fields":
        return _Fields(at, {_spelled(name): _packed(field, stamps) for name, field in body.items()})
    if row.kind == "counter":
        return _packed_counter(at, body)
    if row.kind == "set":
        return _Set(at, {element: _signed(version, stamps) for element, version in body.items()})
    return _Records(at, [(*place, text) for place, text in body.items()])


def _packed_counter(at: int, body: _Pairs) -> _Counter:
    return _Counter(at, [(node, _count(plus), _count(minus)) for node, (plus, minus) in body.items()])


def _count(number: int) -> _Count:
    return number if number < 1 << 63 else number.to_bytes((number.bit_length() + 7) // 8, "big")


def _signed(version: tuple[Stamp, bool], stamps: _Stamps) -> int:
    stamp, alive = version
    at = stamps.place(stamp)
    return at if alive else ~at


def _spelled(name: str) -> str:
    """A name as msgpack can hold it: one with lone surrogates, as the JSON text that begins with a quote."""
    if name.isascii() and name[:1] != '"':
        return name
    return json.dumps(name) if name[:1] == '"' or any("\ud800" <= c <= "\udfff" for c in name) else name


def _unspelled(name: str) -> str:
    if name[:1] != '"':
        return name
    found = json.loads(name)
    if not isinstance(found, str):
        raise ValueError(f"{name!r} is no name of a field")
    return found


def _unpacked(node: _Node, stamps: list[Stamp], depth: int) -> Row:
    if isinstance(node, int):
        return _dead(_dead_stamp(node, stamps))
    epoch = stamps[node.at]
    if isinstance(node, _Text):
        return Row("value", epoch, True, node.text)
    if isinstance(node, _Blob):
        return Row("value", epoch, True, node.blob)
    if isinstance(node, _Fields):
        _check_depth(depth)
        below = depth + 1
        fields = {_unspelled(name): _unpacked(field, stamps, below) for name, field in node.fields.items()}
        return Row("fields", epoch, True, fields)
    if isinstance(node, _Counter):
        return Row("counter", epoch, True, _unpacked_counter(node))
    if isinstance(node, _Set):
        elements = {element: _unsigned(at, stamps) for element, at in node.elements.items()}
        return Row("set", epoch, True, elements)
    return Row("records", epoch, True, {(writer, position): text for writer, position, text in node.records})


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"its fields are nested more than {MAX_DEPTH} levels deep")


def _dead_stamp(at: int, stamps: list[Stamp]) -> Stamp:
    if at >= 0:
        raise ValueError(f"the place {at} stands where a dead field's belongs")
    return stamps[~at]


def _unsigned(at: int, stamps: list[Stamp]) -> tuple[Stamp, bool]:
    return (stamps[at], True) if at >= 0 else (stamps[~at], False)


def _unpacked_counter(node: _Counter) -> _Pairs:
    return {one: (_number(plus), _number(minus)) for one, plus, minus in node.steps}


def _number(count: _Count) -> int:
    return count if isinstance(count, int) else int.from_bytes(count, "big")


# -- beside a readable value ----------------------------------------------------------------------------------
# The entry table keeps what a row reads as, and beside it only what that does not say. A field that is a plain
# value with the usual stamp (that of the first such field) is not even named: a row written at once costs 27 bytes.


class _InnerFields(msgspec.Struct, array_like=True, tag=2, forbid_unknown_fields=True):
    at: _Whole
    fields: dict[str, "_Inner"]


class _InnerSet(msgspec.Struct, array_like=True, tag=4, forbid_unknown_fields=True):
    at: _Whole
    alive: list[_Whole]  # in the order in which the value lists the elements
    gone: dict[str, _Whole]


class _InnerRecords(msgspec.Struct, array_like=True, tag=5, forbid_unknown_fields=True):
    at: _Whole
    places: list[tuple[_Whole, _Whole]]  # in the order in which the value lists the records


_Inner = int | _InnerFields | _Counter | _InnerSet | _InnerRecords
_INNER = msgspec.msgpack.Decoder(tuple[_Whole, _StampList, _Inner])


def stamps(row: Row) -> bytes:
    """What `value(row)` and `row.epoch` do not say; b"" for plain values and dead rows, where they say it all."""
    if row.kind == "value":
        return b""
    splitter = _Splitter(row.epoch)
    node = splitter.split(row)
    return _FORMAT + msgspec.msgpack.encode((splitter.usual or 0, splitter.stamps.written(), node))


def reassemble(value: Any, epoch: Stamp, alive: bool, inner: bytes, encode: Encode) -> Row:
    """The row that `value(row)` and `stamps(row)` came from; `encode` is the one that encoded its values.

    Raises CorruptError when `inner` is damaged or belongs to another value.
    """
    if not alive:
        return _dead(epoch)
    if not inner:
        return Row("value", epoch, True, encode(value))
    try:
        usual, written, node = _INNER.decode(_after_format(inner))
        stamps = [epoch, FLOOR, *written]
        return _Joiner(stamps, stamps[usual], encode).row(value, node, 0)
    except _DAMAGE as error:
        raise _corrupt("the inner stamps of an entry", error) from error


class _Splitter:
    """Takes from a row what its value does not say."""

    def __init__(self, epoch: Stamp) -> None:
        self.stamps = _Stamps(epoch, FLOOR)
        self.usual: int | None = None

    def split(self, row: Row) -> _Inner:
        at = self.stamps.place(row.epoch)
        if not row.alive:
            return ~at
        body = row.body
        if row.kind == "fields":
            return _InnerFields(at, dict(self._told(body)))
        if row.kind == "counter":
            return _packed_counter(at, body)
        if row.kind == "set":
            return self._set(at, body)
        if row.kind == "records":
            return _InnerRecords(at, sorted(body))
        return at

    def _told(self, body: dict[str, Row]) -> Iterable[tuple[str, _Inner]]:
        for name, field in body.items():
            inner = self.split(field)
            if isinstance(inner, int) and field.alive:
                if self.usual is None:
                    self.usual = inner
                if inner == self.usual:
                    continue
            yield _spelled(name), inner

    def _set(self, at: int, body: _Versions) -> _InnerSet:
        place = self.stamps.place
        gone = {element: place(stamp) for element, (stamp, alive) in body.items() if not alive}
        return _InnerSet(at, [place(body[element][0]) for element in _elements(body)], gone)


class _Joiner(NamedTuple):
    """Puts a value and its inner stamps together again. Raises ValueError where they do not fit."""

    stamps: list[Stamp]
    usual: Stamp
    encode: Encode

    def row(self, value: Any, node: _Inner, depth: int) -> Row:
        if isinstance(node, int):
            _fit(node >= 0, "a dead field has a value")
            return Row("value", self.stamps[node], True, self.encode(value))
        epoch = self.stamps[node.at]
        if isinstance(node, _InnerFields):
            _check_depth(depth)
            return Row("fields", epoch, True, self._join_dict(value, node, depth + 1))
        if isinstance(node, _Counter):
            body = _unpacked_counter(node)
            _fit(value.__class__ is int and value == _total(body), "a counter does not have its value")
            return Row("counter", epoch, True, body)
        if isinstance(node, _InnerSet):
            return Row("set", epoch, True, self._set(value, node))
        _fit(isinstance(value, list) and len(value) == len(node.places), "records are missing")
        return Row("records", epoch, True, dict(zip(node.places, map(self.encode, value))))

    def _join_dict(self, value: Any, node: _InnerFields, depth: int) -> dict[str, Row]:
        _fit(isinstance(value, dict), "the fields have no dict")
        told = {_unspelled(name): inner for name, inner in node.fields.items()}
        body = {}
        for name, one in value.items():
            inner = told.get(name)
            if inner is None:
                body[name] = Row("value", self.usual, True, self.encode(one))
            else:
                body[name] = self.row(one, inner, depth)
        for name, inner in told.items():
            if name not in body:
                if not isinstance(inner, int):
                    raise ValueError(f"the field {name!r} has no value")
                body[name] = _dead(_dead_stamp(inner, self.stamps))
        return body

    def _set(self, value: Any, node: _InnerSet) -> _Versions:
        _fit(isinstance(value, list) and len(value) == len(node.alive), "elements of a set are missing")
        body = {self.encode(one): (self.stamps[at], True) for one, at in zip(value, node.alive)}
        body.update((element, (self.stamps[at], False)) for element, at in node.gone.items())
        return body


def _fit(fits: bool, reason: str) -> None:
    if not fits:
        raise ValueError(reason)
