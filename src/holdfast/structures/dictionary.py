"""Dict: an ordered dict in a hold, whose changes are kept at any depth.

Where a key's newest value is, in the order in which it is looked for:

    _hot     live objects: scalars, and the roots of tracked containers
    _dirty   what is not stored yet: the JSON text of a container that was assigned, or None where the value is the
             one in `_hot` (a scalar, or a container that was changed)
    table    what is stored: unfolded batches, then rows

`_gone` names the keys that were deleted. Marking comes after changing, and a sync takes the marks away before it
reads, so no change slips between the two. Stores that must not come apart stand together without a call in
between (see tracked.py).
"""

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from contextlib import contextmanager
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.codec import SCALARS, Serializer, Stored, key_from_db, plain_key
from holdfast.errors import InvalidError, MissingError
from holdfast.journal import bulk, merge
from holdfast.journal.table import EPHEMERAL, LOCAL, FieldsTable, Part, Table
from holdfast.structures.paths import Path
from holdfast.structures.tracked import (
    ALONE,
    LOOSE,
    NODES,
    ColdDict,
    is_held_inside,
    loosen,
    maybe_held,
    overwrite,
    plain,
    references,
    refuse_nested_key,
    track,
)

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal
    from holdfast.journal.transaction import Transaction

PAGE = 256  # rows that one step of an iteration reads
HOT_BYTES_A_VALUE = 200  # what a hot value takes beside its text …
HOT_BYTES_A_CHARACTER = 7  # … and per character of it, as measured on small nested records
Keys = set[Any]  # inside the class, `set` is the property
_MISSING: Any = object()
_never: Callable[[], None] = repeat(None, 0).__next__  # sends every change to the careful way


class Dict(MutableMapping[Any, Any]):
    """A dict in a hold. Made by `hold.dict(name)`; all that a dict can do, and it is still there tomorrow.

    Keys are str, int, float, bool, None or tuples of them; order is that of first insertion. Values are what JSON
    holds (unless another serializer was named); dicts and lists inside come back as themselves, tracked.
    Iterating goes on to keys that are added meanwhile.
    """

    __slots__ = (
        "__weakref__",
        "_careful",
        "_cache_bytes",
        "_dirty",
        "_dumps",
        "_gone",
        "_hot",
        "_hot_bytes",
        "_journal",
        "_limit",
        "_loads",
        "_moved",
        "_nested_key",
        "_pages",
        "_paused",
        "_replaced",
        "_rest",
        "_serializer",
        "_table",
        "_tick",
        "_words",
    )
    __hash__ = None  # type: ignore[assignment]
    _states: ClassVar[dict[str, type]]  # which class it has in which state; see sharing.py

    def __init__(
        self, journal: "Journal", table: Table, serializer: Serializer, sync_changes: int, cache_bytes: int
    ) -> None:
        self._journal = journal
        self._table = table
        self._words = journal.database.counter.words
        self._serializer = serializer
        self._dumps = serializer.dumps
        self._loads = serializer.loads
        self._cache_bytes = cache_bytes
        self._limit = sync_changes
        self._nested_key: Callable[[object], str] = refuse_nested_key
        self._careful = False
        self._paused = False
        self._pages: list[dict[Any, Any]] = []
        self._replaced: set[Any] = set()
        self._clear_memory()
        table.structure = self  # type: ignore[assignment]
        self._rest = "readonly" if journal.readonly else "shared" if journal.shared else "plain"
        self._become(self._rest if journal.transaction is None else "transaction")

    def _clear_memory(self) -> None:
        self._hot: dict[Any, Any] = {}
        self._hot_bytes = 0
        self._dirty: dict[Any, Stored | None] = {}
        self._gone: dict[Any, None] = {}
        self._moved: dict[Any, None] = {}

    @property
    def name(self) -> str:
        """The name of this structure in its hold."""
        return self._table.name

    # -- single keys ------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._hot[key]
        except KeyError:
            return self._load(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        hot = self._hot
        if value.__class__ in SCALARS:
            if key in hot:
                hot[key] = value
                self._dirty[key] = None
            else:
                self._assign(key, value)
        else:
            self._assign(key, value)
        try:
            self._tick()
        except StopIteration:
            self._due()

    def __delitem__(self, key: Any) -> None:
        with self._atomically():
            self._delete(key)
        self._count_change()

    def _delete(self, key: Any) -> None:
        key = plain_key(key)
        if key not in self:
            raise self._no_key(key)
        self._touch(key)
        self._remove(key)

    def __contains__(self, key: object) -> bool:
        if key in self._hot or self._dirty.get(key) is not None:
            return True
        if key in self._gone:
            return False
        try:
            return self._table.has(plain_key(key))
        except InvalidError:
            return False  # what can't be a key is not in here, as in a dict

    def _assign(self, key: Any, value: Any) -> None:
        """Put a value in memory and mark it; raises before anything is changed."""
        if key.__class__ is not str:
            key = plain_key(key)
        text = self._text_of(key, value)
        hot = self._hot
        if key in hot and hot[key].__class__ in NODES:
            loosen(hot[key])
        if value.__class__ in SCALARS:
            hot[key] = value
            self._dirty[key] = None
        else:
            self._dirty[key] = text
            if key in hot:
                del hot[key]

    def _remove(self, key: Any) -> None:
        """Take out a key that is here."""
        node = self._hot.get(key)
        if node.__class__ in NODES:
            loosen(node)
        self._hot.pop(key, None)
        self._dirty.pop(key, None)
        self._replaced.discard(key)
        self._gone[key] = None

    def _load(self, key: Any) -> Any:
        """The value of a key that is not hot; it is hot from then on."""
        key = plain_key(key)
        journal = self._journal
        with journal.lock:
            hot, dirty = self._hot, self._dirty
            text: Any = ""
            while key not in hot:
                text = dirty.get(key)
                if text is None and key not in self._gone:
                    text = self._table.text(key)
                if text is None:
                    raise self._no_key(key)
                value = self._visited(key) if self._pages else _MISSING
                if value is _MISSING:
                    value = self._loads(text)
                    if self._serializer.tracked:
                        value = track(value, self, key)
                # Another thread may have assigned meanwhile: its value is the newer one.
                if key in dirty:
                    if (dirty[key] is text or dirty[key] is None) and key not in hot:
                        hot[key] = value
                elif key not in hot:
                    hot[key] = value
            self._hot_bytes += HOT_BYTES_A_VALUE + HOT_BYTES_A_CHARACTER * len(text)
            if self._hot_bytes > self._cache_bytes:
                self._evict(key)
            return hot[key]

    def _stored(self, key: Any) -> Any:
        """The newest text of a key that is not hot."""
        found = self._dirty.get(key)
        if found is None and key not in self._gone:
            found = self._table.text(key)
        return found

    def _visited(self, key: Any) -> Any:
        for page in self._pages:
            if key in page:
                return page.pop(key)
        return _MISSING

    def _no_key(self, key: Any) -> MissingError:
        return MissingError(f"{key!r} is not in {self.name!r}")

    # -- the cache --------------------------------------------------------------------------------------------

    def _evict(self, wanted: Any) -> None:
        """Let go of the older half of the hot values; never of one that is changed, held or `wanted` now."""
        hot, dirty = self._hot, self._dirty
        before = len(hot)
        for key in list(hot)[: max(before // 2, 1)]:
            if key in dirty or key == wanted:
                continue
            node = hot.get(key)
            if node.__class__ in NODES and (references(node) > ALONE or is_held_inside(node)):
                continue
            if key not in dirty and key in hot:
                del hot[key]
        self._hot_bytes = self._hot_bytes * len(hot) // max(before, 1)

    # -- syncing ----------------------------------------------------------------------------------------------

    def _arm(self, changes: int) -> None:
        self._tick: Callable[[], None] = repeat(None, max(changes - 1, 0)).__next__

    def _due(self) -> None:
        """Enough changes to look whether a sync is due: it is when that many keys differ from the file."""
        changed = len(self._dirty) + len(self._gone)
        self._arm(self._limit if self._paused else max(self._limit - changed, 1))
        if changed >= self._limit and not self._paused:
            self._arm(self._limit)
            self._journal.sync(every=False)

    def _count_change(self) -> None:
        try:
            self._tick()
        except StopIteration:
            self._due()

    def sync(self) -> None:
        """Bring every change of the hold to the file, as one batch."""
        self._journal.sync()

    def sync_key(self, key: Any) -> None:
        """Bring at least this key's change to the file."""
        if key not in self:
            raise self._no_key(key)
        self._journal.sync()

    def dirty(self) -> Keys:
        """The keys whose newest value is not in the file yet (deleted ones among them); a copy."""
        return {*self._dirty, *self._gone}

    def mark_dirty(self, key: Any) -> None:
        """Have this key written with the next sync, as after a change that could not be seen."""
        key = plain_key(key)
        with self._atomically():
            self[key]  # raises MissingError; makes it hot
            self._touch(key)
            self._dirty[key] = None
        self._count_change()

    def pause(self) -> None:
        """No sync by itself until `resume()`; `sync()` and the end of the program still write."""
        self._paused = True

    def resume(self) -> None:
        """Sync by itself again; at once, if enough has changed meanwhile."""
        self._paused = False
        if len(self._dirty) + len(self._gone) >= self._limit:
            self._journal.sync(every=False)

    def revert(self) -> None:
        """Drop every change that is not in the file yet, in references that are held too."""
        with self._journal.lock:
            self._undo([*self._dirty, *self._gone])

    def _is_dirty(self) -> bool:
        return bool(self._dirty or self._gone) and not self._paused

    def _collect(self, every: bool) -> Part | None:
        """All changes as a part of a batch, unmarked."""
        if (self._paused and not every) or not (self._dirty or self._gone):
            return None
        taken = self._dirty
        self._dirty = {}  # first unmark, then read: a later mark is never lost
        removed = list(self._gone)
        self._gone = {}
        self._take_visited(taken)
        keys, values = self._texts(taken)
        again = set(keys).intersection(removed) if removed else ()
        renewed = []
        if again or self._moved or self._table.renewed:
            renewed = [key for key in keys if key in again or key in self._moved or self._was_deleted(key)]
            self._moved.clear()
        if isinstance(self._table, FieldsTable):
            return self._collect_fields(self._table, keys, values, removed, renewed)
        return Part(self._table, keys, values, [k for k in removed if k not in again], renewed, {})

    def _was_deleted(self, key: Any) -> bool:
        table = self._table
        return key in table.renewed and table.cold.get(key, "") is None

    def _take_visited(self, taken: Iterable[Any]) -> None:
        """What was changed in the middle of an iteration becomes hot."""
        for page in self._pages:
            for key in taken:
                if key in page and key not in self._hot:
                    self._hot[key] = page.pop(key)

    def _texts(self, taken: Mapping[Any, Any]) -> tuple[list[Any], list[Any]]:
        hot, dumps = self._hot, self._dumps
        values = [
            text if text is not None else dumps(hot[key]) if key in hot else None for key, text in taken.items()
        ]
        if None in values:  # marked through a container that was replaced at the same time
            kept = [(key, value) for key, value in zip(taken, values, strict=True) if value is not None]
            return [key for key, _ in kept], [value for _, value in kept]
        return list(taken), values

    def _collect_fields(
        self, table: FieldsTable, keys: list[Any], values: list[Any], removed: list[Any], renewed: list[Any]
    ) -> Part | None:
        journal = self._journal
        stamp = (journal.clock.tick(), journal.uid_of(journal.here))
        deltas = {}
        for key in removed:
            deltas[key] = merge.deletion("fields", stamp)
        renewed += [key for key in keys if key not in renewed and self._is_dead(table, key)]
        for key, text in zip(keys, values, strict=True):
            delta = self._delta(table, key, text, stamp, deleted=key in deltas)
            if delta is not None:
                deltas[key] = delta
        self._replaced.clear()
        if not deltas:
            return None
        packed = [merge.pack(delta) for delta in deltas.values()]
        return Part(table, list(deltas), packed, [], [k for k in renewed if k in deltas], {})

    def _is_dead(self, table: FieldsTable, key: Any) -> bool:
        row = table.row(key)
        return row is not None and not row.alive

    def _delta(self, table: FieldsTable, key: Any, text: str, stamp: merge.Stamp, deleted: bool) -> merge.Row | None:
        value = self._loads(text)
        old = table.row(key)
        if not isinstance(value, dict):
            same = old is not None and old.kind == "value" and old.body == text and not deleted
            return None if same else merge.Row("value", stamp, True, text)
        counters, sets = self._merging_fields()
        replaced = deleted or key in self._replaced or (old is not None and old.kind == "value")
        if old is not None and (replaced or not old.alive):
            return merge.replacement(value, stamp, self._journal.encode, counters=counters, sets=sets)
        return merge.difference(old, value, stamp, self._journal.encode, counters=counters, sets=sets)

    def _merging_fields(self) -> tuple[frozenset[str], frozenset[str]]:
        options = self._table.options
        return frozenset(options.get("counters", ())), frozenset(options.get("sets", ()))

    def _keep(self, part: Part) -> None:
        """A sync failed: what it had taken is marked again, unless it was changed anew meanwhile."""
        for key, value in zip(part.keys, part.values, strict=True):
            if isinstance(self._table, FieldsTable):
                row = merge.unpack(value)
                if not row.alive:
                    self._gone.setdefault(key)
                    continue
                base = self._table.row(key)
                joined = row if base is None else merge.join(base, row)
                value = self._table._text_of(joined)
            if key not in self._dirty and key not in self._gone:
                self._dirty[key] = None if key in self._hot else value
        for key in part.gone:
            if key not in self._dirty:
                self._gone[key] = None

    # -- which class answers: see sharing.py ---------------------------------------------------------------

    def _enter(self, transaction: "Transaction") -> None:
        self._become("transaction")

    def _leave(self) -> None:
        self._become(self._rest)

    def _close(self) -> None:
        self._clear_memory()
        self._become("closed")

    def _become(self, state: str) -> None:
        self._careful = state != "plain"
        if self._careful:
            self._tick = _never
        else:
            self._arm(self._limit)
        self.__class__ = self._states[state]  # type: ignore[assignment]

    # -- what the journal says --------------------------------------------------------------------------------

    def _foreign(self, keys: Iterable[Any]) -> None:
        """Others changed these keys: what is hot of them is brought up to date or let go of."""
        hot, dirty = self._hot, self._dirty
        for key in keys:
            for page in self._pages:
                if key in page and key not in dirty and page[key].__class__ in NODES:
                    self._show(key, page[key])
            if key not in hot or key in dirty:
                continue  # ours is the newer one, and is written later
            node = hot[key]
            if node.__class__ in NODES and (references(node) > ALONE or is_held_inside(node)):
                self._show(key, node)
            else:
                node = None
                del hot[key]

    def _show(self, key: Any, node: Any) -> None:
        """Make a held container read as what is stored."""
        text = self._table.text(key)
        if text is not None and overwrite(node, self._loads(text)):
            return
        loosen(node)
        self._hot.pop(key, None)

    def _forget(self) -> None:
        self._foreign(list(self._hot))

    def _undo(self, keys: Iterable[Any]) -> None:
        """Make these keys read as they are stored, in memory and in held references."""
        for key in keys:
            self._dirty.pop(key, None)
            self._gone.pop(key, None)
            self._moved.pop(key, None)
            self._replaced.discard(key)
            if key in self._hot:
                node = self._hot[key]
                if node.__class__ in NODES:
                    self._show(key, node)
                else:
                    del self._hot[key]

    def _after_fork(self) -> None:
        """In a child: what the parent had not written is the parent's to write."""
        for key in [*self._dirty, *self._gone]:
            self._hot.pop(key, None)
        self._dirty.clear()
        self._gone.clear()
        self._moved.clear()
        self._replaced.clear()
        self._arm(self._limit)

    # -- changes that must not come apart ---------------------------------------------------------------------

    @contextmanager
    def _atomically(self) -> Iterator[None]:
        """Several steps as one, for the threads of this process; where shared, for all processes."""
        with self._journal.lock:
            yield

    def _touch(self, key: Any) -> None:
        """A key is about to change (a transaction keeps account)."""

    def _change(self, node: Any, change: Callable[[], Any]) -> Any:
        """A change inside a value, where marking is not enough."""
        result = change()
        node._owner._dirty[node._key] = None
        return result

    def _atomic_change(self, keys: tuple[Any, ...], change: Callable[[], Any]) -> Any:
        """Run a change of one key (or, without one, of the structure) as one step, or not at all."""
        with self._atomically():
            before = [(key, self._dumps(self[key])) for key in keys if key in self]
            try:
                result = change()
            except BaseException:
                for key, text in before:
                    node = self._hot.get(key)
                    if not (node.__class__ in NODES and overwrite(node, self._loads(text))):
                        self._assign(key, self._loads(text))
                raise
        self._count_change()
        return result

    @property
    def set(self) -> Path:
        """Where changes that must be atomic are made: `d.set["a"]["n"] += 1`, `d.set["log"].append(x)`."""
        return Path(self, ())

    def lock(self, wait_seconds: float | None = None) -> None:
        """Keep all other writers of the hold out, until `unlock()`; changes inside are written as usual."""
        self._journal.lock_writers(wait_seconds)

    def unlock(self) -> None:
        """Let other writers in again."""
        self._journal.unlock_writers()

    @contextmanager
    def locked(self, wait_seconds: float | None = None) -> Iterator["Dict"]:
        """`with d.locked():` others wait with their changes until the block ends."""
        self.lock(wait_seconds)
        try:
            yield self
        finally:
            self.unlock()

    # -- the rest of a dict -----------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except (MissingError, InvalidError):
            return default

    def pop(self, key: Any, default: Any = _MISSING) -> Any:
        """Remove a key and return its value, in builtin containers."""
        with self._atomically():
            try:
                value = plain(self[key])
            except MissingError:
                if default is _MISSING:
                    raise
                return default
            del self[key]
            return value

    def popitem(self, last: bool = True) -> tuple[Any, Any]:
        """Remove and return the newest (or oldest) pair."""
        with self._atomically():
            keys = list(self)
            if not keys:
                raise MissingError(f"{self.name!r} is empty")
            key = keys[-1 if last else 0]
            return key, self.pop(key)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        with self._atomically():
            if key not in self:
                self[key] = default
            return self[key]

    def update(self, *others: Any, **keywords: Any) -> None:
        """Set all pairs of mappings or iterables of pairs, one after the other."""
        with self._atomically():
            for other in (*others, keywords):
                pairs = iter(other.items() if isinstance(other, Mapping) else other)
                first = list(islice(pairs, bulk.LEAST))
                if len(first) == bulk.LEAST and self._may_load():
                    self._load_all(chain(first, pairs))
                    continue
                for key, value in chain(first, pairs):
                    self[key] = value

    def _may_load(self) -> bool:
        """Whether many entries may go straight to the rows: nothing waits for a commit, or for `resume()`."""
        return not self._careful and not self._paused and not isinstance(self._table, FieldsTable)

    def _load_all(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        journal = self._journal
        with journal.writing():
            journal.sync()
            for keys in bulk.load(journal, self._table, pairs, self._dumps):
                self._foreign(keys)
            journal.folder.fold_if_due()

    def _text_of(self, key: Any, value: Any) -> Any:
        try:
            return self._dumps(value)
        except InvalidError as error:
            raise InvalidError(f"{self.name}[{key!r}] was not changed: {error}") from None

    def clear(self) -> None:
        with self._atomically():
            for key in list(self):
                del self[key]

    def move_to_end(self, key: Any) -> None:
        """Make a key the last one; it stays the same entry."""
        with self._atomically():
            key = plain_key(key)
            self[key]
            self._touch(key)
            self._moved[key] = None
            self._dirty[key] = self._dirty.pop(key, None)
        self._count_change()

    def copy(self) -> dict[Any, Any]:
        """A plain dict with copies of all values."""
        return {key: plain(value) for key, value in self.items()}

    def __ior__(self, other: Any) -> "Dict":
        self.update(other)
        return self

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return self.copy() | dict(other)

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return dict(other) | self.copy()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        if len(self) != len(other):
            return False
        return all(key in other and other[key] == value for key, value in self.items())

    def mark(self, key: Any, *, local: bool = False, ephemeral: bool = False) -> None:
        """Say of one entry that it never leaves this file, or that it is not kept across a restart."""
        with self._journal.writing():
            self._journal.sync()
            key = plain_key(key)
            text = self._stored(key)
            if text is None:
                raise self._no_key(key)
            if ephemeral:
                self._journal.remember_ephemeral()
            flags = (LOCAL if local else 0) | (EPHEMERAL if ephemeral else 0)
            value = text
            if isinstance(self._table, FieldsTable):
                row = self._table.row(key)
                assert row is not None
                value = merge.pack(row)
            self._journal.append([Part(self._table, [key], [value], [], [], {"flags": [flags]})])

    # -- looking over everything ------------------------------------------------------------------------------

    def __len__(self) -> int:
        with self._journal.lock:
            table = self._table
            added = sum(not table.has(key) for key in list(self._dirty) if key not in self._gone)
            removed = sum(table.has(key) for key in list(self._gone) if key not in self._dirty)
            return table.count() + added - removed

    def __bool__(self) -> bool:
        return next(iter(self), _MISSING) is not _MISSING

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _ in self._scan(values=False))

    def __reversed__(self) -> Iterator[Any]:
        return reversed(list(self))

    def keys(self) -> KeysView[Any]:
        return KeysView(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def items(self) -> ItemsView[Any, Any]:
        return _Items(self)

    def _scan(self, values: bool) -> Iterator[tuple[Any, Any]]:
        """All pairs in order, and those that are added meanwhile. Fills no cache."""
        table = self._table
        last = table.first_id
        added: Keys = set()
        while True:
            last = yield from self._scan_rows(last, added, values)
            batch = self._not_in_rows(added, last)
            if not batch and not self._has_rows_after(last):
                return
            for key in batch:
                added.add(key)
                if key in self:
                    yield key, self[key] if values else None

    def _has_rows_after(self, last: int) -> bool:
        return bool(
            self._journal.database.value(
                "SELECT 1 FROM entry WHERE id>=? AND id<? LIMIT 1", (last, self._table.end_id)
            )
        )

    def _not_in_rows(self, added: Keys, last: int) -> list[Any]:
        """Keys that are newer than the rows, in the order in which they came."""
        table = self._table
        with self._journal.lock:
            stored = [
                key
                for key in list(table.over)
                if key not in added
                and (key in table.renewed or not table.has_row(key))
                and table.is_live(key)
                and (key not in self._gone)
                and key not in self._moved
            ]
            unsynced = [
                key
                for key in list(self._dirty)
                if key not in added
                and (key in self._moved or key in self._gone or (not table.has(key)))
            ]
        return list(dict.fromkeys([*stored, *unsynced]))

    def _scan_rows(self, last: int, added: Keys, values: bool) -> Any:
        table, database = self._table, self._journal.database
        columns = "id, key, value" if values else "id, key, NULL"
        query = f"SELECT {columns} FROM entry WHERE id>=? AND id<? AND value IS NOT NULL ORDER BY id LIMIT {PAGE}"
        while True:
            rows = database.rows(query, (last, table.end_id))
            if not rows:
                return last
            yield from self._page(rows, added, values)
            last = rows[-1][0] + 1

    def _page(self, rows: list[Any], added: Keys, values: bool) -> Iterator[tuple[Any, Any]]:
        table = self._table
        if not values:
            clean = not (table.over or self._dirty or self._gone or added)
            for _, key, _ in rows:
                if key.__class__ is bytes:
                    key = key_from_db(key)
                if clean or self._is_current(key, added):
                    yield key, None
            return
        page: dict[Any, Any] = {}
        self._pages.append(page)
        hot, loads, tracked = self._hot, self._loads, self._serializer.tracked
        try:
            for _, key, text in rows:
                if key.__class__ is bytes:
                    key = key_from_db(key)
                if key in hot or table.over or self._dirty or self._gone or added:
                    if not self._is_current(key, added):
                        continue
                    if key in hot or key in self._dirty or key in table.over:
                        yield key, self[key]
                        continue
                value = loads(text)
                if tracked:
                    kind = value.__class__  # as `track` does, without the call
                    if kind is dict:
                        page[key] = value = ColdDict(value)
                        value._owner = self
                        value._key = key
                    elif kind is list:
                        page[key] = value = track(value, self, key)
                yield key, value
            value = None
        finally:
            self._keep_held(page)

    def _is_current(self, key: Any, added: Keys) -> bool:
        """Whether a row says where its key stands in the order: not if it was deleted or moved since."""
        if key in added or key in self._gone or key in self._moved:
            return False
        table = self._table
        return key not in table.renewed or key not in table.over

    def _keep_held(self, page: dict[Any, Any]) -> None:
        """What an iteration gave out and somebody kept, or changed, becomes hot.

        The newest page is looked at later: the loop that runs over it still holds its last value.
        """
        with self._journal.lock:
            for earlier in self._pages[:-1]:
                self._settle_page(earlier)
            self._pages[:-1] = []
            kept = {key: page[key] for key in maybe_held(page)}
            page.clear()
            page.update(kept)
            if not page:
                self._pages.clear()

    def _settle_page(self, page: dict[Any, Any]) -> None:
        hot = self._hot
        for key in list(page):
            node = page.pop(key)
            node_is_kept = key in self._dirty or references(node) > ALONE - 1 or is_held_inside(node)
            if node_is_kept and key not in hot and node._owner is not LOOSE and self._dirty.get(key) is None:
                hot[key] = node

    # -- showing ----------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        shown = []
        for key, value in self.items():
            if len(shown) == 5:
                shown.append("...")
                break
            shown.append(f"{key!r}: {value!r}")
        return f"<holdfast.Dict {self.name!r}: {{{', '.join(shown)}}}>"

    def _repr_html_(self) -> str:
        from html import escape

        rows = []
        for key, value in self.items():
            if len(rows) == 20:
                break
            rows.append(f"<tr><td>{escape(repr(key))}</td><td>{escape(repr(value))}</td></tr>")
        return (
            f"<table><caption>{escape(self.name)}: {len(self)} entries</caption>"
            f"<tr><th>key</th><th>value</th></tr>{''.join(rows)}</table>"
        )


class _Values(ValuesView[Any]):
    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._scan(values=True))  # type: ignore[attr-defined]


class _Items(ItemsView[Any, Any]):
    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._scan(values=True)  # type: ignore[attr-defined]
