"""A hold: one file of named structures, and the handle that opens it."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from holdfast import codec
from holdfast.engine import recognise
from holdfast.engine.connection import Database
from holdfast.errors import ClosedError, InvalidError
from holdfast.journal import inspection
from holdfast.journal.exchange import Changes, apply, since
from holdfast.journal.identity import mark_whole
from holdfast.journal.journal import Journal
from holdfast.journal.timer import TIMER
from holdfast.journal.transaction import Transaction
from holdfast.journal.watch import Change, Subscription, Watcher
from holdfast.structures.dictionary import Dict
from holdfast.structures.tracker import Tracker

Durability = Literal["normal", "full", "write"]
Options = dict[str, Any]  # inside Hold, `dict` is its method
Names = dict[str, str]
_DURABILITIES = ("normal", "full", "write")


class _Open:
    """What all handles on one file share in this process, and how many there are."""

    def __init__(self, journal: Journal, options: dict[str, Any]) -> None:
        self.journal = journal
        self.inode = _inode(journal.path)
        self.options = options
        self.handles = 0


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_open_holds: dict[str, _Open] = {}
_registry_lock = threading.RLock()


def _renew_registry_lock() -> None:
    global _registry_lock
    _registry_lock = threading.RLock()
    TIMER.after_fork_child()


os.register_at_fork(after_in_child=_renew_registry_lock)


def open(
    path: str | os.PathLike[str],
    *,
    shared: bool = False,
    readonly: bool = False,
    create: bool = True,
    durability: Durability = "normal",
    sync_changes: int = 1_000,
    sync_seconds: float | None = 1.0,
    cache_bytes: int = 64_000_000,
    wait_seconds: float = 30.0,
) -> "Hold":
    """Open the hold at `path`, made if missing (and `create`). ":memory:" is one that leaves nothing behind.

    shared         each change is in the file and seen by all processes when the call returns, and is atomic
    readonly       no change is possible; the hold may lie on a read-only disk
    durability     "normal": survives a killed process whole, a power cut may lose the last moments;
                   "full": each sync waits for the disk; "write": each change is synced at once
    sync_changes   changed keys, and
    sync_seconds   seconds after which changes go to the file by themselves (None: not by time)
    cache_bytes    about how much memory live values may take, a structure
    wait_seconds   how long to wait for another writer before BusyError

    Opening a path again gives another handle on the same data.
    Raises MissingError, InvalidError, CorruptError, ReadOnlyError, UnavailableError: see `holdfast.errors`.
    """
    options = {
        "shared": shared,
        "readonly": readonly,
        "durability": durability,
        "sync_changes": sync_changes,
        "sync_seconds": sync_seconds,
        "cache_bytes": cache_bytes,
        "wait_seconds": wait_seconds,
    }
    _check_options(options)
    full = (
        ":memory:" if os.fspath(path) == ":memory:" else os.path.realpath(os.path.expanduser(os.fspath(path)))
    )
    with _registry_lock:
        opened = _find_open(full, options) or _open_anew(full, create, options)
        opened.handles += 1
        return Hold(opened)


def _check_options(options: dict[str, Any]) -> None:
    if options["durability"] not in _DURABILITIES:
        raise InvalidError(f"durability={options['durability']!r} is none of {', '.join(_DURABILITIES)}")
    if options["readonly"] and options["durability"] == "write":
        raise InvalidError("readonly=True contradicts durability='write': a read-only hold writes nothing")
    for name, least in (("sync_changes", 1), ("cache_bytes", 0), ("wait_seconds", 0)):
        if isinstance(options[name], bool) or options[name] < least:
            raise InvalidError(f"{name}={options[name]!r} is out of range: it must be at least {least}")
    if options["sync_seconds"] is not None and options["sync_seconds"] <= 0:
        raise InvalidError(
            f"sync_seconds={options['sync_seconds']!r} must be positive, or None for not by time"
        )


def _find_open(full: str, options: dict[str, Any]) -> _Open | None:
    opened = _open_holds.get(full)
    if opened is None or full == ":memory:":
        return None
    if opened.inode != _inode(full):
        del _open_holds[full]  # the file was replaced: this is another hold
        return None
    for name in ("shared", "readonly", "durability"):
        if opened.options[name] != options[name]:
            raise InvalidError(
                f"{full!r} is already open in this process with {name}={opened.options[name]!r}, which contradicts "
                f"{name}={options[name]!r}: use the same, or close the other handle first"
            )
    return opened


def _open_anew(full: str, create: bool, options: dict[str, Any]) -> _Open:
    had_wal = recognise.has_log(full)  # an empty one, which any reader leaves, holds no changes
    database = Database.open(
        full,
        readonly=options["readonly"],
        create=create and not options["readonly"],
        durability=options["durability"],
        wait_seconds=options["wait_seconds"],
    )
    try:
        journal = Journal(database, options["shared"], had_wal)
    except BaseException:
        database.close()
        raise
    opened = _Open(journal, options)
    if full != ":memory:":
        _open_holds[full] = opened
    if options["sync_seconds"] is not None and not options["readonly"] and not options["shared"]:
        TIMER.add(journal, options["sync_seconds"])
    return opened


class Hold:
    """A handle on an open hold. A context manager: leaving the block closes it.

    It may be sent to other processes (it travels as its path and options), and used from many threads.
    """

    def __init__(self, opened: _Open) -> None:
        self._opened: _Open | None = opened
        self._path = opened.journal.path

    @property
    def _journal(self) -> Journal:
        if self._opened is None or self._opened.journal.closed:
            raise ClosedError(f"{self._path!r} is closed: open it again with holdfast.open()")
        return self._opened.journal

    @property
    def _options(self) -> Options:
        assert self._opened is not None
        return self._opened.options

    @property
    def path(self) -> str:
        """The file's path."""
        return self._path

    @property
    def shared(self) -> bool:
        """Whether each change is seen by all processes at once."""
        return self._journal.shared

    @property
    def closed(self) -> bool:
        return self._opened is None or self._opened.journal.closed

    # -- structures -------------------------------------------------------------------------------------------

    def dict(
        self,
        name: str,
        *,
        merge: Literal["value", "fields"] | None = None,
        serializer: str | None = None,
        strict_json: bool | None = None,
        local: bool | Iterable[str] = (),
        ephemeral: bool | Iterable[str] = (),
    ) -> Dict:
        """The dict of that name, made if missing.

        merge        how versions of one key from two machines are brought together: "value" (the default), the
                     later one wins; "fields", each field of a dict value by itself
        serializer   how values are stored: "json" (the default), "str", "bytes", "pickle", "msgpack", "json_zstd",
                     "numpy"; of other than JSON, a change inside a value is not seen: assign it again
        strict_json  refuse NaN and infinities
        local        True, or names of fields: never leaves this file
        ephemeral    True, or names of fields: not kept across a restart

        Options are stored when the dict is made; naming others later raises InvalidError.
        """
        wanted = {
            "merge": merge,
            "serializer": serializer,
            "strict_json": strict_json,
            "local": _marks(local),
            "ephemeral": _marks(ephemeral),
        }
        found: Dict = self._structure(
            Dict, name, "dict", {k: v for k, v in wanted.items() if v not in (None, [])}
        )
        return found

    def tracker(self, name: str, *, max_tries: int = 0) -> Tracker:
        """The task tracker of that name, made if missing. `max_tries`: attempts a task gets; 0 is no limit."""
        tracker: Tracker = self._structure(Tracker, name, "tracker", {**Tracker.OPTIONS})
        tracker.max_tries = max_tries
        return tracker

    def _structure(self, face: Any, name: str, kind: str, wanted: Options) -> Any:
        if name.__class__ is not str or not name:
            raise InvalidError(
                f"{name!r} can't be the name of a structure: it must be a string that is not empty"
            )
        journal = self._journal
        options = {"merge": "value", "serializer": "json", **wanted}
        chosen = codec.serializer(options["serializer"], bool(options.get("strict_json")))
        _refuse_contradictions(name, options, chosen)
        table = journal.table(name, kind, options)
        for option, value in wanted.items():
            if table.options.get(option) != value and not (value is False and option not in table.options):
                raise InvalidError(
                    f"{name!r} was made with {option}={table.options.get(option)!r}, which contradicts "
                    f"{option}={value!r}: leave the option out, or use another name"
                )
        stored = codec.serializer(table.options["serializer"], bool(table.options.get("strict_json")))
        if stored.unsafe and wanted.get("serializer") != stored.name:
            raise InvalidError(
                f"the values of {name!r} are stored by serializer={stored.name!r}, and loading them can run code: "
                f"if you trust the file, say so by hold.{kind}({name!r}, serializer={stored.name!r})"
            )
        with journal.lock:
            found = table.structure
            if found is None:
                changes = 1 if self._options["durability"] == "write" else self._options["sync_changes"]
                found = face(journal, table, stored, changes, self._options["cache_bytes"])
                if self._path != ":memory:":
                    found._travels = (_reopen_structure, (self._path, self._options, name, kind, stored.name))
            TIMER.ensure_running(journal)
            return found

    def structures(self) -> Names:
        """The names of all structures, each with its kind."""
        return {table.name: table.kind for table in self._journal.all_tables()}

    def drop(self, name: str) -> None:
        """Remove a structure and all that is in it."""
        inspection.drop(self._journal, name)

    # -- writing ----------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Bring every change to the file, as one batch. Afterwards a killed process loses nothing of it."""
        self._journal.sync()

    def fold(self) -> None:
        """Bring all batches into the rows now, instead of when it is due: for tools that read the rows."""
        journal = self._journal
        journal.sync()
        with journal.writing():
            journal.folder.fold_all()

    def transaction(self, wait_seconds: float | None = None) -> Transaction:
        """`with hold.transaction():` all changes of the block, in any structures, are one batch: whole or not at all.

        Other writers wait; an exception undoes everything. Raises BusyError when the lock was not free in time.
        """
        return Transaction(self._journal, wait_seconds)

    def lock(self, wait_seconds: float | None = None) -> None:
        """Keep all other writers out until `unlock()`."""
        self._journal.lock_writers(wait_seconds)

    def unlock(self) -> None:
        """Let other writers in again."""
        self._journal.unlock_writers()

    @contextmanager
    def locked(self, wait_seconds: float | None = None) -> Iterator["Hold"]:
        """`with hold.locked():` other writers wait until the block ends."""
        self.lock(wait_seconds)
        try:
            yield self
        finally:
            self.unlock()

    # -- what happens -----------------------------------------------------------------------------------------

    def watch(self, *names: str, since: int | None = None) -> Watcher:
        """Iterate over changes as they come to the file, from any process; blocks in between.

        names   structures to watch; none: all
        since   a cursor (`Change.cursor`) after which to begin; None: now
        """
        return Watcher(self._journal, names, since)

    def on_change(self, callback: Callable[[Change], object], *names: str) -> Subscription:
        """Call `callback` with each change, on a thread of its own, until the subscription is cancelled."""
        return Subscription(self.watch(*names), callback)

    # -- other machines ---------------------------------------------------------------------------------------

    def since(self, cursor: int = 0) -> Changes:
        """What changed after `cursor` (0: everything), to be applied to another hold."""
        return since(self._journal, cursor)

    def apply(self, changes: Changes) -> int:
        """Merge changes of another hold into this one; late, doubled or out of order. How many made a difference."""
        return apply(self._journal, changes)

    # -- upkeep -----------------------------------------------------------------------------------------------

    def backup(self, path: str | os.PathLike[str]) -> None:
        """A consistent copy at `path`, also while others write. Never overwrites."""
        self._journal.sync()
        target = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self._journal.database.backup(target)
        mark_whole(target)

    def check(self) -> list[str]:
        """Every invariant of the file that does not hold, in words; [] if all is well."""
        self._journal.sync()
        return inspection.check(self._journal)

    def close(self) -> None:
        """Sync and let go of the file. The last handle of a process closes it; closing twice is harmless."""
        with _registry_lock:
            opened, self._opened = self._opened, None
            if opened is None or opened.journal.closed:
                return
            opened.handles -= 1
            if opened.handles:
                opened.journal.sync()
                return
            TIMER.remove(opened.journal)
            try:
                opened.journal.close()
            finally:
                if _open_holds.get(self._path) is opened:
                    del _open_holds[self._path]

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        if self._path == ":memory:":
            raise InvalidError("a hold in memory can't be sent to another process: open one with a path")
        self._journal.sync()
        return _reopen, (self._path, self._options.copy())

    def __repr__(self) -> str:
        state = "closed" if self.closed else "shared" if self._journal.shared else "open"
        return f"<holdfast.Hold {self._path!r}, {state}>"


def _reopen(path: str, options: Options) -> Hold:
    return open(path, **options)


def _reopen_structure(
    path: str, options: dict[str, Any], name: str, kind: str, serializer: str, max_tries: int = 0
) -> Any:
    hold = open(path, **options)
    return (
        hold.tracker(name, max_tries=max_tries)
        if kind == "tracker"
        else hold.dict(name, serializer=serializer)
    )


def _marks(given: bool | Iterable[str]) -> bool | list[str] | None:
    if isinstance(given, bool):
        return given or None
    if isinstance(given, str):
        raise InvalidError(f"local and ephemeral take True or several field names: ({given!r},) for just one")
    return sorted(given)


def _refuse_contradictions(name: str, options: Options, chosen: codec.Serializer) -> None:
    if options["merge"] not in ("value", "fields"):
        raise InvalidError(f"merge={options['merge']!r} is neither 'value' nor 'fields'")
    if options["merge"] == "fields" and not chosen.tracked:
        raise InvalidError(
            f"{name!r}: merge='fields' contradicts serializer={chosen.name!r}: only JSON values have fields to merge"
        )
    if options["merge"] == "value" and any(isinstance(options.get(m), list) for m in ("local", "ephemeral")):
        raise InvalidError(f"{name!r}: naming local or ephemeral fields needs merge='fields'")
