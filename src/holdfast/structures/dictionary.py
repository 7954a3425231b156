"""Dict: an ordered dict in a hold, whose changes are kept at any depth."""

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from orjson import dumps

from holdfast.codec import PASSED_THROUGH, plain_key
from holdfast.errors import InvalidError, MissingError
from holdfast.journal import bulk, merge
from holdfast.journal.table import EPHEMERAL, LOCAL, FieldsTable, Part
from holdfast.structures.entries import MISSING
from holdfast.structures.paths import Path
from holdfast.structures.scanning import Scanning
from holdfast.structures.tracked import NODES, loosen, plain

_first, _second = itemgetter(0), itemgetter(1)
Keys = set[Any]  # inside the class, `set` is the property


class Dict(Scanning):
    """A dict in a hold. Made by `hold.dict(name)`; all that a dict can do, and it is still there tomorrow.

    Keys are str, int, float, bool, None or tuples of them; order is that of first insertion. Values are what JSON
    holds (unless another serializer was named); dicts and lists inside come back as themselves, tracked.
    Iterating goes on to keys that are added meanwhile.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    # -- single keys ---------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._public[key]
        except KeyError:
            return self._load(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        kind = value.__class__
        if (kind is dict or kind is list) and key.__class__ is str and self._is_plain_json:
            try:  # as `_assign` and `encode` do, without the calls
                text = dumps(value, None, PASSED_THROUGH).decode()
            except TypeError:
                text = "null"
            if key in self._hot or self._pages or self._careful or "null" in text:
                self._assign(key, value)
            else:
                self._dirty[key] = text
        elif kind in self._scalars and key in self._public and self._public[key].__class__ not in NODES:
            self._public[key] = value
            self._dirty[key] = None
        else:
            self._assign(key, value)
        try:
            next(self._ticks)
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
        return key in self._public or self._holds(key)

    def _holds(self, key: object) -> bool:
        try:
            key = plain_key(key)
        except InvalidError:
            return False  # what can't be a key is not in here, as in a dict
        with self._journal.lock:
            if not self._is_outside():
                if key in self._hot or self._dirty.get(key) is not None:
                    return True
                if key in self._gone:
                    return False
            return self._table.has(key)

    # -- syncing -------------------------------------------------------------------------------------------------

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
        return {*self._pending(), *self._gone}

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
        self._arm(1)
        if len(self._dirty) + len(self._gone) >= self._limit:
            self._journal.sync(every=False)

    def revert(self) -> None:
        """Drop every change that is not in the file yet, in references that are held too."""
        with self._journal.lock:
            self._undo([*self._dirty, *self._gone])

    # -- changes that must be atomic -----------------------------------------------------------------------------

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

    def __reduce_ex__(self, protocol: Any) -> Any:
        """It travels to another process as its hold's path and its name."""
        if self._travels is None:
            raise InvalidError(f"{self.name!r} can't be sent to another process: its hold is in memory alone")
        self._journal.sync()
        return self._travels

    # -- the rest of a dict --------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except (MissingError, InvalidError):
            return default

    def pop(self, key: Any, default: Any = MISSING) -> Any:
        """Remove a key and return its value, in builtin containers."""
        with self._atomically():
            try:
                value = plain(self[key])
            except MissingError:
                if default is MISSING:
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
                self._replace(keys)
            journal.folder.fold_if_due()

    def _replace(self, keys: Iterable[Any]) -> None:
        """These keys have new values in the file: what was live under them is nobody's any more."""
        hot = self._hot
        for key in keys:
            if self._pages:
                self._leave_pages(key)
            node = hot.pop(key, None)
            if node.__class__ in NODES:
                loosen(node)

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

    def __ior__(self, other: Any) -> "Dict":  # type: ignore[misc]  # `|` gives a plain dict
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

    def _newest(self, key: Any) -> Any:
        """The newest text of a key that is not hot."""
        found = self._dirty.get(key)
        if found is None and key not in self._gone:
            found = self._table.text(key)
        return found

    def mark(self, key: Any, *, local: bool = False, ephemeral: bool = False) -> None:
        """Say of one entry that it never leaves this file, or that it is not kept across a restart.

        The marks stay with the key, also when it is deleted and added anew, until they are set otherwise.
        """
        with self._journal.writing():
            self._journal.sync()
            key = plain_key(key)
            text = self._newest(key)
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

    # -- looking over everything ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        with self._journal.lock:
            table = self._table
            if self._is_outside():
                return table.count()
            added = sum(not table.has(key) for key in self._pending())
            removed = sum(table.has(key) for key in list(self._gone) if key not in self._dirty)
            return table.count() + added - removed

    def __bool__(self) -> bool:
        return next(iter(self), MISSING) is not MISSING

    def __iter__(self) -> Iterator[Any]:
        return map(_first, self._scan(values=False))

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self)[::-1])

    def keys(self) -> KeysView[Any]:
        return KeysView(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def items(self) -> ItemsView[Any, Any]:
        return _Items(self)

    # -- showing -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        shown: list[str] = []
        for key, value in self.items():
            if len(shown) == 5:
                shown.append("...")
                break
            shown.append(f"{key!r}: {value!r}")
        return f"<holdfast.Dict {self.name!r}: {{{', '.join(shown)}}}>"

    def _repr_html_(self) -> str:
        from html import escape

        rows: list[str] = []
        for key, value in self.items():
            if len(rows) == 20:
                break
            rows.append(f"<tr><td>{escape(repr(key))}</td><td>{escape(repr(value))}</td></tr>")
        return (
            f"<table><caption>{escape(self.name)}: {len(self)} entries</caption>"
            f"<tr><th>key</th><th>value</th></tr>{''.join(rows)}</table>"
        )


class _Values(ValuesView[Any]):
    _mapping: Dict

    def __iter__(self) -> Iterator[Any]:
        return map(_second, self._mapping._scan(values=True))


class _Items(ItemsView[Any, Any]):
    _mapping: Dict

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._scan(values=True)
