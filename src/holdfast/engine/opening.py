"""Which files this process has open, and how a connection to one is made and set up.

Opening is done by one thread at a time, and never during a fork: SQLite's table of POSIX locks must be empty of a
file, or the file be known here, when a child is made. Held while opening: `files.lock`.
"""

import os
import threading
import urllib.parse
from collections.abc import Callable

import apsw

from holdfast.engine import recognise
from holdfast.engine.counter import inode_of
from holdfast.engine.schema import APPLICATION_ID, check_format
from holdfast.errors import CorruptError, InvalidError, ReadOnlyError

MEMORY = ":memory:"
SYNCHRONOUS = {"normal": "NORMAL", "write": "NORMAL", "full": "FULL"}
CHECKPOINT_PAGES = 2000
CACHE_KIB = 16_000

_READONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI

Inode = tuple[int, int]
OnBusy = Callable[[int], bool]


class OpenFiles:
    """The files that this process has open by SQLite. Under `lock`.

    `torn`: those that were open in the middle of a transaction when this process was forked. SQLite believes here
    that it holds the parent's locks on them, so they can't be used again.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.torn: set[Inode] = set()
        self._open: dict[Inode, int] = {}

    def has(self, inode: Inode | None) -> bool:
        """Whether a connection to the file is open."""
        return inode in self._open

    def add(self, path: str) -> Inode:
        """Note one more connection to the file."""
        inode = inode_of(os.stat(path))
        self._open[inode] = self._open.get(inode, 0) + 1
        return inode

    def remove(self, inode: Inode) -> None:
        """Note one connection less."""
        left = self._open[inode] - 1
        if left:
            self._open[inode] = left
        else:
            del self._open[inode]

    def _renew(self) -> None:
        self.lock = threading.RLock()


files = OpenFiles()

# Not by the registry of `process`: its hooks run before these, so that this lock is the last to be taken.
os.register_at_fork(
    before=lambda: files.lock.acquire(),
    after_in_parent=lambda: files.lock.release(),
    after_in_child=lambda: files._renew(),
)


def look(path: str, *, readonly: bool, create: bool) -> None:
    """Refuse what is not ours, or can't be opened as wished, before anything is opened or made beside it."""
    try:
        known = files.has(inode_of(os.stat(path)))
    except OSError:
        known = False
    there = known or recognise.refuse_strangers(path, create=create)
    if readonly:
        return
    if there and not os.access(path, os.W_OK):
        raise ReadOnlyError(f"{path!r} can't be written: make it writable, or open it with readonly=True")
    if not os.access(os.path.dirname(path), os.W_OK):
        raise ReadOnlyError(
            f"the directory of {path!r} can't be written, and SQLite needs files beside it: make it writable"
            + (", or open the hold with readonly=True" if there else "")
        )


def connect_memory() -> apsw.Connection:
    """A new database in memory."""
    connection = apsw.Connection(MEMORY)
    _tune(connection, "normal")
    return connection


def connect(path: str, durability: str, on_busy: OnBusy) -> tuple[apsw.Connection, Inode]:
    """A connection for writing; the file is made if it is missing."""
    connection = apsw.Connection(path)
    inode = files.add(path)
    try:
        connection.set_busy_handler(on_busy)
        _want_log(connection, path)
        _tune(connection, durability)
    except BaseException:
        connection.close()
        files.remove(inode)
        raise
    return connection, inode


def connect_readonly(path: str, on_busy: OnBusy) -> tuple[apsw.Connection, Inode]:
    """A connection for reading, also where nothing can be written."""
    connection = apsw.Connection(_uri(path, immutable=False), flags=_READONLY)
    inode = files.add(path)
    try:
        connection.set_busy_handler(on_busy)
        try:
            _tune(connection, "normal")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            # The directory can't be written, so SQLite can't share the file with a writer. Without a log there is
            # none, and the file alone is the whole truth.
            if recognise.has_log(path):
                raise
            connection.close()
            connection = apsw.Connection(_uri(path, immutable=True), flags=_READONLY)
            _tune(connection, "normal")
    except BaseException:
        connection.close()
        files.remove(inode)
        raise
    return connection, inode


def _uri(path: str, *, immutable: bool) -> str:
    """SQLite's URI to read the file; `immutable`: nobody writes it, and nothing can be made beside it."""
    return f"file:{urllib.parse.quote(path)}?{'immutable=1' if immutable else 'mode=ro'}"


def check_identity(connection: apsw.Connection, path: str) -> None:
    """Refuse another application's database and a newer format; one without any table may become ours."""
    application = connection.execute("PRAGMA application_id").get
    if application == APPLICATION_ID:
        check_format(path, int(connection.execute("PRAGMA user_version").get))
    elif application or connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise CorruptError(
            f"{path!r} is a SQLite database of another application, not a hold; it was left as it is"
        )
    elif connection.readonly("main"):
        raise CorruptError(
            f"{path!r} is an empty database, not a hold: open it once for writing to make it one"
        )


def _want_log(connection: apsw.Connection, path: str) -> None:
    mode = connection.execute("PRAGMA journal_mode").get
    if mode != "wal":
        check_identity(connection, path)  # first: turning the log on writes to the file
        mode = connection.execute("PRAGMA journal_mode = WAL").get
    if mode != "wal":
        raise InvalidError(
            f"{path!r} lies on a file system without shared memory, which SQLite's log needs: put it on a local disk"
        )


def _tune(connection: apsw.Connection, durability: str) -> None:
    connection.execute(
        f"PRAGMA synchronous = {SYNCHRONOUS[durability]}; PRAGMA cache_size = {-CACHE_KIB};"
        "PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF"
    ).fetchall()
    connection.wal_autocheckpoint(CHECKPOINT_PAGES)
