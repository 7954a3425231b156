"""The classes that a Dict switches to where a plain change in memory would not do.

    SharedDict        every change is in the file, and seen by all processes, when the call returns
    DictInTransaction while a transaction is open: inside, changes wait for the commit; outside, readers see what
                      is stored and writers wait
    ReadOnlyDict      every change is refused
    ClosedDict        everything is refused

A method goes on to another class's by name, since `super()` fails in an object that was switched meanwhile.
Switching the class keeps the plain one free of tests: it pays nothing for what it does not do.
"""

import operator
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, NoReturn

from holdfast.codec import SCALARS, plain_key
from holdfast.errors import ClosedError, ConflictError, ReadOnlyError
from holdfast.journal.table import FieldsTable
from holdfast.journal.transaction import Transaction, current
from holdfast.structures.dictionary import Dict
from holdfast.structures.tracked import LOOSE, NODES, loosen

FOLD_LOOK = 64  # batches between two looks whether a fold is due


class SharedDict(Dict):
    """A Dict of a hold that is opened with shared=True."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if self._words[0] != self._seen:
            self._journal.refresh()
        try:
            return self._public[key]
        except KeyError:
            return self._load(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if key.__class__ is not str:
            key = plain_key(key)
        journal = self._journal
        if journal.is_writing():
            self._assign(key, value)
            return
        if isinstance(self._table, FieldsTable):
            self._atomic_change((key,), lambda: self._assign(key, value))
            return
        text = self._text_of(key, value)
        with journal.writing():
            journal.append_one(self._table, key, text)
            SharedDict._set_hot(self, key, value)
            if not journal.seen % FOLD_LOOK:
                journal.folder.fold_if_due()

    def __delitem__(self, key: Any) -> None:
        self._atomic_change((key,), lambda: self._delete(key))

    def _set_hot(self, key: Any, value: Any) -> None:
        hot = self._hot
        if self._pages:
            self._leave_pages(key)
        if key in hot and hot[key].__class__ in NODES:
            loosen(hot[key])
        if value.__class__ in SCALARS:
            hot[key] = value
        elif key in hot:
            del hot[key]

    def update(self, *others: Any, **keywords: Any) -> None:
        """Set all pairs of mappings or iterables of pairs, as one step."""
        if self._journal.is_writing():
            plain: Any = self._states["plain"]
            plain.update(self, *others, **keywords)
            return
        with self._atomically():
            self.update(*others, **keywords)  # it is of the transaction's class now

    def __contains__(self, key: object) -> bool:
        SharedDict._see(self)
        return Dict.__contains__(self, key)

    def __len__(self) -> int:
        SharedDict._see(self)
        return Dict.__len__(self)

    def _scan(self, values: bool) -> Iterator[tuple[Any, Any]]:
        SharedDict._see(self)
        return Dict._scan(self, values)

    def _page(
        self, rows: list[Any], added: set[Any], values: bool, settled: int
    ) -> Generator[tuple[Any, Any], None, int]:
        SharedDict._see(self)
        return Dict._page(self, rows, added, values, settled)

    def _see(self) -> None:
        if self._words[0] != self._seen:
            self._journal.refresh()

    def _due(self) -> None:
        """Nothing waits in memory."""

    def _count_change(self) -> None:
        """Nothing waits in memory, so there is nothing to count."""

    @contextmanager
    def _atomically(self) -> Iterator[None]:
        """One transaction of its own, or part of the step that this runs in."""
        if self._journal.is_writing():
            yield
            return
        with Transaction(self._journal):
            yield

    def _change(self, node: Any, change: Callable[[], Any]) -> Any:
        key = node._key

        def checked() -> Any:
            if node._owner is LOOSE:
                raise ConflictError(
                    f"what this refers to in {self.name}[{key!r}] was replaced or removed by another process: "
                    "read it again"
                )
            result = change()
            self._dirty[key] = None
            return result

        return self._atomic_change((key,), checked)

    def _atomic_change(self, keys: tuple[Any, ...], change: Callable[[], Any]) -> Any:
        """Run a change of one key (or of the whole structure) as one step, seen by all when it returns."""
        journal = self._journal
        if journal.is_writing():
            return change()
        if not keys:
            with self._atomically():
                return change()
        with journal.writing():
            journal.writer = get_ident()
            try:
                result = change()
                SharedDict._write_change(self)
            except BaseException:
                self._undo([plain_key(keys[0])])
                raise
            finally:
                journal.writer = None
            if not journal.seen % FOLD_LOOK:
                journal.folder.fold_if_due()
            return result

    def _write_change(self) -> None:
        dirty = self._dirty
        if self._pages:
            self._take_visited(dirty)
        if len(dirty) == 1 and not (self._gone or self._moved or isinstance(self._table, FieldsTable)):
            ((key, text),) = dirty.items()
            self._dirty = {}
            self._journal.append_one(self._table, key, self._dumps(self._hot[key]) if text is None else text)
            return
        part = self._collect(every=True)
        refused = self._refusal()
        if refused is not None:
            raise refused
        if part is not None:
            self._journal.append([part])

    def _combine(self, key: Any, combine: Callable[[Any, Any], Any], operand: Any) -> None:
        journal = self._journal
        if journal.is_writing() or isinstance(self._table, FieldsTable):
            Dict._combine(self, key, combine, operand)
            return
        with journal.writing():
            old = self[key]
            if old.__class__ in NODES:
                Dict._combine(self, key, combine, operand)
                return
            new = combine(old, operand)
            journal.append_one(self._table, plain_key(key), self._text_of(key, new))
            SharedDict._set_hot(self, key, new)
            if not journal.seen % FOLD_LOOK:
                journal.folder.fold_if_due()


class DictInTransaction(Dict):
    """A Dict while somebody in this process has a transaction open."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if current(self._journal) is None:
            return Dict._load(self, key)
        try:
            return self._hot[key]
        except KeyError:
            return Dict._load(self, key)

    def _assign(self, key: Any, value: Any) -> None:
        if current(self._journal) is None:  # begun before the transaction was
            DictInTransaction._wait_and(self, lambda: operator.setitem(self, key, value))
        else:
            self._touch(plain_key(key))
            self._states["plain"]._assign(self, key, value)

    def revert(self) -> None:
        if current(self._journal) is None:
            DictInTransaction._wait_and(self, self.revert)
        else:
            Dict.revert(self)

    def __setitem__(self, key: Any, value: Any) -> None:
        transaction = current(self._journal)
        if transaction is None:
            DictInTransaction._wait_and(self, lambda: operator.setitem(self, key, value))
            return
        self._assign(key, value)

    def __delitem__(self, key: Any) -> None:
        if current(self._journal) is None:
            DictInTransaction._wait_and(self, lambda: operator.delitem(self, key))
        else:
            self._delete(key)

    def _wait_and(self, change: Callable[[], Any]) -> Any:
        """Another context has the transaction: wait for its end, then change as usual."""
        with self._journal.writing():
            pass
        return change()

    def _count_change(self) -> None:
        """The commit writes everything."""

    def _due(self) -> None:
        """The commit writes everything."""

    def _touch(self, key: Any) -> None:
        transaction = current(self._journal)
        if transaction is not None:
            transaction.touch(self, key)

    @contextmanager
    def _atomically(self) -> Iterator[None]:
        if current(self._journal) is None:
            with self._journal.writing():
                pass
            with self._atomically():  # of the class it has now
                yield
        else:
            yield

    def _change(self, node: Any, change: Callable[[], Any]) -> Any:
        transaction = current(self._journal)
        if transaction is None:
            with self._journal.writing():
                pass
            return node._owner._change(node, change) if node._owner._careful else _plain_change(node, change)
        key = node._key
        transaction.touch(self, key)
        result = change()
        self._dirty[key] = None
        return result

    def _atomic_change(self, keys: tuple[Any, ...], change: Callable[[], Any]) -> Any:
        if current(self._journal) is None:
            return DictInTransaction._wait_and(self, lambda: self._atomic_change(keys, change))
        return change()

    def _combine(self, key: Any, combine: Callable[[Any, Any], Any], operand: Any) -> None:
        transaction = current(self._journal)
        hot = self._hot
        if transaction is None or key not in hot or hot[key].__class__ not in SCALARS:
            Dict._combine(self, key, combine, operand)
            return
        transaction.touch(self, key)
        self._assign(key, combine(hot[key], operand))


def _plain_change(node: Any, change: Callable[[], Any]) -> Any:
    result = change()
    node._owner._dirty[node._key] = None
    return result


class ReadOnlyDict(Dict):
    """A Dict of a hold that is opened with readonly=True; sees what others write."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if self._words[0] != self._seen:
            self._journal.refresh()
        return Dict.__getitem__(self, key)

    def _refuse(self) -> ReadOnlyError:
        return ReadOnlyError(
            f"{self.name!r} can't be changed: {self._journal.path!r} is open read-only; open it without readonly=True"
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        raise self._refuse()

    def __delitem__(self, key: Any) -> None:
        raise self._refuse()

    def _atomically(self) -> NoReturn:
        raise self._refuse()

    def _change(self, node: Any, change: Callable[[], Any]) -> Any:
        raise self._refuse()

    def _atomic_change(self, keys: tuple[Any, ...], change: Callable[[], Any]) -> Any:
        raise self._refuse()


class ClosedDict(Dict):
    """A Dict whose hold was closed."""

    __slots__ = ()

    def _refuse(self, *args: Any, **keywords: Any) -> Any:
        raise ClosedError(
            f"{self._table.name!r} is closed, because its hold {self._journal.path!r} is: "
            "open it again with holdfast.open()"
        )

    __getitem__ = __setitem__ = __delitem__ = __contains__ = __len__ = __iter__ = _refuse
    _scan = _atomically = _change = _atomic_change = _due = _load = sync = mark = revert = _refuse
    resume = sync_key = __bool__ = __reversed__ = _refuse

    def get(self, key: Any, default: Any = None) -> Any:
        return self._refuse()

    def __repr__(self) -> str:
        return f"<holdfast.Dict {self._table.name!r}, closed>"


_STATES: dict[str, type[Dict]] = {
    "shared": SharedDict,
    "transaction": DictInTransaction,
    "readonly": ReadOnlyDict,
    "closed": ClosedDict,
}


def states_of(face: type[Dict]) -> dict[str, type]:
    """The classes that an instance of `face` switches between."""
    switched = {
        state: kind if face is Dict else type(f"{face.__name__}_{state}", (kind, face), {"__slots__": ()})
        for state, kind in _STATES.items()
    }
    return {"plain": face, **switched}


Dict._states = states_of(Dict)
