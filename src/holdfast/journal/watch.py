"""Watching: changes as they come to the file, in order, each once, whoever made them."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from holdfast.clock import monotonic
from holdfast.codec import key_from_db, serializer
from holdfast.engine.counter import LANDED
from holdfast.errors import ClosedError, MissingError
from holdfast.journal.table import FieldsTable, Table

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal

log = logging.getLogger("holdfast")
WAIT_SECONDS = 0.5  # how long one wait may be; a change ends it at once
BATCHES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Change:
    """One entry changed.

    kind    "set", "deleted", or "missed": this watcher was so far behind that deletions may have been forgotten;
            read the structures anew
    value   the new value; for structures merged by fields, and for a watcher that is behind, the newest one
    cursor  where to go on after this change: `hold.watch(since=change.cursor)`
    """

    structure: str
    key: Any
    kind: Literal["set", "deleted", "missed"]
    value: Any
    cursor: int


class Watcher:
    """An iterator of changes that blocks while there are none. `close()`, also from another thread, ends it."""

    def __init__(self, journal: "Journal", names: Iterable[str], since: int | None) -> None:
        self._journal = journal
        self._names = frozenset(names)
        for name in self._names:
            if journal.find_table(name) is None:
                raise MissingError(f"there is no structure {name!r} in {journal.path!r} to watch")
        newest = journal.database.value("SELECT max(seq) FROM batch") or journal.seen
        self._cursor: int = newest if since is None else since
        self._ready: deque[Change] = deque()
        self._closed = False

    @property
    def cursor(self) -> int:
        """The last batch of which all changes were given."""
        return self._cursor

    def __iter__(self) -> "Watcher":
        return self

    def __next__(self) -> Change:
        while True:
            change = self.poll(WAIT_SECONDS)
            if change is not None:
                return change
            if self._closed:
                raise StopIteration

    def poll(self, timeout: float = 0.0) -> Change | None:
        """The next change, or None if none came within `timeout` seconds."""
        deadline = monotonic() + timeout
        while not self._ready and not self._closed:
            try:
                self._read()
                left = deadline - monotonic()
                if self._ready or left <= 0:
                    break
                self._wait(left)
            except (ValueError, ClosedError):
                if not self._journal.closed:
                    raise
                self._closed = True  # the hold was closed while we looked or waited
        return self._ready.popleft() if self._ready else None

    def _wait(self, timeout: float) -> None:
        counter = self._journal.database.counter
        landed = counter.words[LANDED]
        # It may be behind what is in the file, for a moment or since a writer was killed: sleep on what it says.
        if landed <= self._cursor:
            counter.wait(landed, timeout)

    def close(self) -> None:
        """End the iteration, once what was read is given."""
        self._closed = True

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self) -> None:
        journal = self._journal
        if journal.closed:
            self._closed = True
            return
        if journal.database.counter.words[0] == self._cursor:
            return
        rows = journal.database.rows(
            f"SELECT seq, keys, changes FROM batch WHERE seq>? ORDER BY seq LIMIT {BATCHES_AT_ONCE}",
            (self._cursor,),
        )
        if rows and rows[0][0] != self._cursor + 1:
            self._read_rows(rows[0][0] - 1)
            return
        for seq, keys, changes in rows:
            self._read_batch(seq, msgspec.msgpack.decode(keys), msgspec.msgpack.decode(changes))
            self._cursor = seq

    def _read_batch(self, seq: int, keys: list[Any], changes: list[Any]) -> None:
        for (identity, set_keys, gone, *_), (values, meta) in zip(keys, changes, strict=True):
            table = self._watched(identity)
            if table is None:
                continue
            for key in gone:
                self._ready.append(Change(table.name, _key(key), "deleted", None, seq))
            if (meta or {}).get("rows"):
                values = [table.row_value(_key(key)) for key in set_keys]
            for key, stored in zip(set_keys, values, strict=True):
                self._ready.append(self._change(table, _key(key), stored, seq))

    def _watched(self, identity: int) -> Table | None:
        table = self._journal.table_of(identity)
        if table.kind == "dropped" or (self._names and table.name not in self._names):
            return None
        return table

    def _change(self, table: Table, key: Any, stored: Any, seq: int) -> Change:
        if isinstance(table, FieldsTable):
            self._journal.refresh()
            with self._journal.lock:
                stored = table.text(key)
        if stored is None:
            return Change(table.name, key, "deleted", None, seq)
        return Change(table.name, key, "set", self._value(table, stored), seq)

    def _value(self, table: Table, stored: Any) -> Any:
        kind = serializer(table.options.get("serializer", "json"))
        return stored if kind.unsafe else kind.loads(stored)

    def _read_rows(self, upto: int) -> None:
        """The batches up to `upto` are gone: the rows say which entries they changed last."""
        journal = self._journal
        forgotten = journal.database.value("SELECT value FROM meta WHERE key='tombstones'") or 0
        if forgotten > self._cursor:
            self._ready.append(Change("", None, "missed", None, self._cursor))
        rows = journal.database.rows(
            "SELECT structure, key, value, seq FROM entry WHERE seq>? AND seq<=? ORDER BY seq, id",
            (self._cursor, upto),
        )
        for identity, key, stored, seq in rows:
            table = self._watched(identity)
            if table is not None:
                kind: Literal["set", "deleted"] = "deleted" if stored is None else "set"
                value = None if stored is None else self._value(table, stored)
                self._ready.append(Change(table.name, _key(key), kind, value, seq))
        self._cursor = upto


class Subscription:
    """A callback that is called with each change, on a thread of its own, until `cancel()`."""

    def __init__(self, watcher: Watcher, callback: Callable[[Change], object]) -> None:
        self._watcher = watcher
        self._callback = callback
        self._thread = threading.Thread(target=self._run, name="holdfast-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for change in self._watcher:
                self._call(change)
        except ClosedError:
            pass  # the hold was closed under us: there is nothing more to tell

    def _call(self, change: Change) -> None:
        try:
            self._callback(change)
        except Exception:
            log.exception("a callback for changes failed on %r; the next change is still delivered", change)

    def cancel(self) -> None:
        """Call no more; waits until a call under way has ended."""
        self._watcher.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *error: object) -> None:
        self.cancel()


def _key(stored: Any) -> Any:
    return key_from_db(stored) if isinstance(stored, bytes) else stored
