"""One connection to the file: opening it, speaking to it, and the rule of forks. The only user of apsw.

All errors of SQLite become ours here. One lock lets the threads of a process take turns, because apsw refuses two
at once.

The rule of forks: before a fork the connection is closed, and both sides open their own when they next need it.
SQLite keeps its POSIX locks in a table of the process, and the kernel doesn't pass POSIX locks on: a child that
inherited the table would believe that it holds locks which it has not, and the last process to close would delete
the log under it. A fork in the middle of a transaction can't be saved that way: there the child is refused.
"""

import contextlib
import ctypes
import errno
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw

from holdfast.clock import monotonic
from holdfast.engine import process, recognise
from holdfast.engine.counter import Counter, inode_of
from holdfast.engine.gate import Gate
from holdfast.engine.schema import APPLICATION_ID, FORMAT, check_format, migrate
from holdfast.errors import (
    BusyError,
    ClosedError,
    ConflictError,
    CorruptError,
    HoldfastError,
    InvalidError,
    ReadOnlyError,
    UnavailableError,
)

MEMORY = ":memory:"
DURABILITIES = {"normal": "NORMAL", "write": "NORMAL", "full": "FULL"}
CHECKPOINT_PAGES = 2000
CACHE_KIB = 16_000
FORK_WAIT_SECONDS = 5.0
BUSY_PAUSE_SECONDS = 0.002

Row = tuple[Any, ...]


class _Openings:
    """Opening is done by one thread at a time, and not during a fork; and which files this process has open."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open: dict[tuple[int, int], int] = {}
        self.torn: set[tuple[int, int]] = set()

    def before_fork(self) -> None:
        self.lock.acquire()

    def after_fork_parent(self) -> None:
        self.lock.release()

    def after_fork_child(self) -> None:
        self.lock = threading.RLock()

    def at_exit(self) -> None:
        """Nothing is lost."""


_openings = _Openings()


class Database:
    """A file and the one connection to it. Thread-safe. Made by `Database.open`."""

    path: str
    """Absolute, symbolic links resolved; ":memory:" for a hold in memory."""
    readonly: bool
    counter: Counter
    gate: Gate
    alone: bool
    """Whether no other process had the file open at the moment of opening. Look again under the gate."""

    def __init__(self, path: str, readonly: bool, durability: str, wait_seconds: float) -> None:
        self.path = path
        self.readonly = readonly
        self.alone = True
        self._durability = durability
        self._wait_seconds = wait_seconds
        self._lock = threading.RLock()
        self._aside = threading.Lock()  # a backup's own connection; a fork waits for it
        self._connection: apsw.Connection | None = None
        self._execute: Callable[..., apsw.Cursor] = self._execute_later
        self._inode: tuple[int, int] | None = None
        self._immutable = False
        self._begun_by = 0
        self._busy_since = 0.0
        self._closed = False
        self._torn = False

    @classmethod
    def open(
        cls,
        path: str,
        *,
        readonly: bool = False,
        create: bool = True,
        durability: str = "normal",
        wait_seconds: float = 30.0,
    ) -> "Database":
        """Open a hold, make it if there is none and `create`, bring an older format up to date.

        Raises MissingError, CorruptError (not a hold, damaged or of a newer format; untouched), ReadOnlyError,
        UnavailableError (no room), BusyError, InvalidError (an option).
        """
        if durability not in DURABILITIES:
            raise InvalidError(f"durability={durability!r} is not one of {', '.join(map(repr, DURABILITIES))}")
        if path == MEMORY:
            if readonly:
                raise InvalidError("a hold in memory is always new, so readonly=True can't be meant: leave it out")
            return cls(MEMORY, False, durability, wait_seconds)._open_memory()
        real = os.path.realpath(os.fspath(path))
        process.register(_openings)
        with _openings.lock:
            return cls(real, readonly, durability, wait_seconds)._open_file(create and not readonly)

    # -- opening ----------------------------------------------------------------------------------------------

    def _open_memory(self) -> "Database":
        self.counter = Counter(None)
        self.gate = Gate(None, self.counter, self._wait_seconds)
        self._connect()
        self._migrate()
        process.register(self)
        return self

    def _open_file(self, create: bool) -> "Database":
        self._look(create)
        if self.readonly:
            self.counter = Counter(self.path, readonly=True)
            self.gate = Gate(None, Counter(None), self._wait_seconds)
            self.alone = False
        else:
            self.counter = Counter(self.path)
            self.gate = self._make_gate()
        try:
            if not self.readonly:
                self.alone = self.gate.presence()
            self._connect()
            self._check_identity()
            self._migrate()
        except BaseException:
            self._disconnect()
            self.gate.close()
            self.counter.close()
            raise
        process.register(self)
        return self

    def _make_gate(self) -> Gate:
        try:
            return Gate(self.path, self.counter, self._wait_seconds)
        except BaseException:
            self.counter.close()
            raise

    def _look(self, create: bool) -> None:
        """Refuse what is not ours before anything is opened or made beside it."""
        try:
            inode = inode_of(os.stat(self.path))
        except OSError:
            inode = None
        if inode in _openings.torn:
            raise self._torn_error()
        there = inode in _openings.open or recognise.refuse_strangers(self.path, create=create)
        if self.readonly:
            return
        if there and not os.access(self.path, os.W_OK):
            raise ReadOnlyError(f"{self.path!r} can't be written: make it writable, or open it with readonly=True")
        if not os.access(os.path.dirname(self.path), os.W_OK):
            raise ReadOnlyError(
                f"the directory of {self.path!r} can't be written, and SQLite needs files beside it: "
                "make it writable" + (", or open the hold with readonly=True" if there else "")
            )

    def _connect(self) -> None:
        """A new connection with our settings. Held: the lock, or nobody else knows us yet."""
        try:
            connection = self._new_connection()
        except apsw.Error as error:
            raise self._translated(error) from error
        self._connection = connection
        self._execute = connection.execute

    def _new_connection(self) -> apsw.Connection:
        if self.path == MEMORY:
            connection = apsw.Connection(MEMORY)
        elif not self.readonly:
            connection = apsw.Connection(self.path)
        else:
            return self._new_readonly_connection()
        try:
            self._register_inode()
            connection.set_busy_handler(self._on_busy)
            if self.path != MEMORY:
                self._want_log(connection)
            self._tune(connection)
        except BaseException:
            self._unregister_inode()
            connection.close()
            raise
        return connection

    def _new_readonly_connection(self) -> apsw.Connection:
        wanted = "file:" + urllib.parse.quote(self.path)
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(wanted + "?mode=ro", flags=flags)
        self._register_inode()
        try:
            try:
                self._tune(connection)
                connection.execute("SELECT count(*) FROM sqlite_schema").get  # noqa: B018
            except (apsw.CantOpenError, apsw.ReadOnlyError):
                # The directory can't be written, so SQLite can't share the file with writers; without a log
                # there is no writer, and the file alone is the whole truth.
                if recognise.has_log(self.path):
                    raise
                connection.close()
                connection = apsw.Connection(wanted + "?immutable=1", flags=flags)
                self._tune(connection)
                self._immutable = True
        except BaseException:
            self._unregister_inode()
            connection.close()
            raise
        return connection

    def _want_log(self, connection: apsw.Connection) -> None:
        mode = connection.execute("PRAGMA journal_mode").get
        # Only a hold, or a database without any table, may be turned to write-ahead logging.
        if mode != "wal":
            self._check_identity_of(connection)
            mode = connection.execute("PRAGMA journal_mode = WAL").get
        if mode != "wal":
            raise InvalidError(
                f"{self.path!r} lies on a file system without shared memory, which SQLite's log needs: "
                "put it on a local disk"
            )

    def _tune(self, connection: apsw.Connection) -> None:
        connection.set_busy_handler(self._on_busy)
        connection.execute(
            f"PRAGMA synchronous = {DURABILITIES[self._durability]}; PRAGMA cache_size = {-CACHE_KIB};"
            f"PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF"
        ).fetchall()
        connection.wal_autocheckpoint(CHECKPOINT_PAGES)

    def _register_inode(self) -> None:
        if self.path != MEMORY:
            self._inode = inode_of(os.stat(self.path))
            _openings.open[self._inode] = _openings.open.get(self._inode, 0) + 1

    def _unregister_inode(self) -> None:
        inode, self._inode = self._inode, None
        if inode is not None:
            left = _openings.open[inode] - 1
            if left:
                _openings.open[inode] = left
            else:
                del _openings.open[inode]

    def _check_identity(self) -> None:
        assert self._connection is not None
        try:
            self._check_identity_of(self._connection)
        except apsw.Error as error:
            raise self._translated(error) from error

    def _check_identity_of(self, connection: apsw.Connection) -> None:
        application = connection.execute("PRAGMA application_id").get
        if application == APPLICATION_ID:
            check_format(self.path, connection.execute("PRAGMA user_version").get)
        elif application or connection.execute("SELECT count(*) FROM sqlite_schema").get:
            raise CorruptError(
                f"{self.path!r} is a SQLite database of another application, not a hold; it was left as it is"
            )
        elif self.readonly:
            raise CorruptError(f"{self.path!r} is an empty database, not a hold")

    def _migrate(self) -> None:
        if self._format() == FORMAT:
            return
        if self.readonly:
            raise ReadOnlyError(
                f"{self.path!r} has the older format {self._format()}: open it once for writing, to bring it up to date"
            )
        self.gate.acquire(self)
        try:
            migrate(self.run, self._format)
        finally:
            self.gate.release(self)

    def _format(self) -> int:
        return int(self.value("PRAGMA user_version"))

    def _on_busy(self, tries: int) -> bool:
        """SQLite's own lock is taken: by a program that knows no gate, or for a moment by one that opens or closes."""
        now = monotonic()
        if tries == 0:
            self._busy_since = now
        if now - self._busy_since > self._wait_seconds:
            return False
        time.sleep(BUSY_PAUSE_SECONDS)  # in Python, so that KeyboardInterrupt comes through
        return True

    # -- statements -------------------------------------------------------------------------------------------

    def value(self, sql: str, args: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None if there is none."""
        try:
            with self._lock:
                found = self._execute(sql, args).get
        except apsw.Error as error:
            raise self._translated(error) from error
        if found.__class__ is list:
            found = found[0]
        return found[0] if found.__class__ is tuple else found

    def rows(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        """All rows."""
        try:
            with self._lock:
                return self._execute(sql, args).fetchall()
        except apsw.Error as error:
            raise self._translated(error) from error

    def run(self, sql: str, args: Sequence[Any] = ()) -> None:
        """Execute one or several statements to their end."""
        try:
            with self._lock:
                self._execute(sql, args).fetchall()
        except apsw.Error as error:
            raise self._translated(error) from error

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute one statement for each row; inside a transaction, or each is one of its own."""
        try:
            with self._lock:
                self._live().executemany(sql, rows)
        except apsw.Error as error:
            raise self._translated(error) from error

    def begin(self) -> None:
        """Begin a write transaction. The caller is inside the gate."""
        self.run("BEGIN IMMEDIATE")
        self._begun_by = threading.get_ident()

    def commit(self) -> None:
        """Make the transaction last. If that raises, roll back: nothing of it is in the file."""
        self.run("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction; harmless if SQLite did so already, as it does when the disk is full."""
        with self._lock:
            if self.in_transaction:
                self.run("ROLLBACK")

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on the connection, by whichever thread."""
        connection = self._connection
        return connection is not None and connection.in_transaction

    def changes(self) -> int:
        """How many rows the last statement changed."""
        with self._lock:
            return self._live().changes()

    def checkpoint(self, truncate: bool = False) -> bool:
        """Bring the log into the file, `truncate` to nothing; whether all of it could be. Readers may hinder it."""
        how = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
        try:
            with self._lock:
                logged, moved = self._live().wal_checkpoint(mode=how)
        except apsw.BusyError:
            return False
        except apsw.Error as error:
            raise self._translated(error) from error
        return logged == moved

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file; [] if nothing."""
        try:
            found = [str(row[0]) for row in self.rows("PRAGMA quick_check")]
        except CorruptError as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def backup(self, target_path: str) -> None:
        """Write a compact copy of this moment, whole or not at all. Readers and writers go on meanwhile.

        Raises InvalidError if the target exists, UnavailableError if there is no room.
        """
        target = os.path.realpath(os.fspath(target_path))
        if os.path.lexists(target):
            raise InvalidError(f"{target!r} exists already: choose another name, or remove it first")
        recognise.check_parent(target)
        partial = f"{target}.{os.getpid()}-{threading.get_ident()}.partial"
        try:
            self._copy_to(partial)
            _sync_file(partial)
            os.link(partial, target)  # not rename: that would replace what came to be there meanwhile
        except FileExistsError:
            raise InvalidError(f"{target!r} came to be meanwhile: choose another name") from None
        except OSError as error:
            if isinstance(error, HoldfastError):
                raise
            raise self._os_error(f"the backup {target!r}", error) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)

    def _copy_to(self, target: str) -> None:
        if self.path == MEMORY:
            self.run("VACUUM INTO ?", (target,))
            return
        with self._aside:
            with _openings.lock:
                if self._closed:
                    raise self._closed_error()
                uri = "file:" + urllib.parse.quote(self.path) + ("?immutable=1" if self._immutable else "?mode=ro")
                reader = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            try:
                reader.set_busy_handler(self._on_busy)
                reader.execute("VACUUM INTO ?", (target,)).fetchall()
            except apsw.Error as error:
                raise self._translated(error, f"the backup of {self.path!r} to {target!r}") from error
            finally:
                reader.close()

    # -- life -------------------------------------------------------------------------------------------------

    def _live(self) -> apsw.Connection:
        """The connection, opened anew if a fork closed it. Under the lock."""
        if self._connection is None:
            self._connect_again()
        assert self._connection is not None
        return self._connection

    def _execute_later(self, sql: str, args: Sequence[Any] = ()) -> apsw.Cursor:
        return self._live().execute(sql, args)

    def _connect_again(self) -> None:
        if self._closed:
            raise self._closed_error()
        if self._torn:
            raise self._torn_error()
        with _openings.lock:
            self._connect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._execute = self._execute_later
        if connection is not None:
            connection.close()
            self._unregister_inode()

    def close(self, last: bool = False) -> None:
        """Close the connection, the gate and the counter. `last`: nobody else has it open, leave one tidy file.

        Whoever is inside the gate is let out, in the same instant in which this process is no longer present.
        """
        with self._aside, self._lock, _openings.lock:
            if self._closed:
                return
            try:
                if last and not self.readonly and not self._torn:
                    self.rollback()
                    self.checkpoint(truncate=True)
                self._disconnect()
            except apsw.Error as error:
                raise self._translated(error) from error
            finally:
                self._closed = True
                process.forget(self)
                self.gate.close()
                self.counter.close()

    def before_fork(self) -> None:
        """Come to rest without a connection; other threads' transactions are waited for, up to 5 s."""
        self._aside.acquire()
        self._lock.acquire()
        deadline = monotonic() + FORK_WAIT_SECONDS
        while self.in_transaction and self._begun_by != threading.get_ident() and monotonic() < deadline:
            self._lock.release()
            time.sleep(0.001)
            self._lock.acquire()
        self.gate.before_fork()
        if self._connection is not None and self.path != MEMORY and not self.in_transaction:
            # No checkpoint: it may take long, and both sides go on writing.
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._disconnect()

    def after_fork_parent(self) -> None:
        """Let the other threads in again."""
        self.gate.after_fork_parent()
        self._lock.release()
        self._aside.release()

    def after_fork_child(self) -> None:
        """New locks; the connection comes when it is needed."""
        self._lock = threading.RLock()
        self._aside = threading.Lock()
        self._begun_by = 0
        self.gate.after_fork_child()
        connection = self._connection
        if connection is not None and self.path != MEMORY:
            # The fork came in the middle of a transaction: closing would touch the parent's locks and log.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            self._connection = None
            self._execute = self._execute_later
            self._torn = True
            if self._inode is not None:
                _openings.torn.add(self._inode)

    def at_exit(self) -> None:
        """Nothing is lost: what was committed is in the file."""

    # -- errors -----------------------------------------------------------------------------------------------

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self.path!r} was closed: open it again")

    def _torn_error(self) -> ClosedError:
        return ClosedError(
            f"{self.path!r} can't be used in this process, which was forked in the middle of a transaction: "
            "fork before or after it, or start the process by spawn"
        )

    def _os_error(self, what: str, error: OSError) -> HoldfastError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return UnavailableError(f"the disk is full, so {what} was not written: free space and try again")
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return ReadOnlyError(f"{what} can't be written ({error.strerror}): make the place writable")
        return UnavailableError(f"{what} could not be written ({error.strerror}): see to it and try again")

    def _translated(self, error: apsw.Error, what: str | None = None) -> Exception:
        """Our error for one of SQLite's."""
        name = what or repr(self.path)
        number = self._connection.system_errno if self._connection is not None else 0
        if isinstance(error, apsw.FullError) or number in (errno.ENOSPC, errno.EDQUOT):
            return UnavailableError(
                f"the disk is full, so {name} was not written: free space and sync again; changes are kept in memory"
            )
        for kinds, ours, text in _TRANSLATIONS:
            if isinstance(error, kinds):
                return ours(text.format(name=name, error=error, seconds=self._wait_seconds))
        return HoldfastError(f"{name}: SQLite refused ({error})")


_TRANSLATIONS: tuple[tuple[tuple[type[apsw.Error], ...], type[Exception], str], ...] = (
    (
        (apsw.BusyError, apsw.LockedError),
        BusyError,
        "{name} was locked by another program for {seconds} s: try again, or end the program that has it open",
    ),
    (
        (apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError),
        ReadOnlyError,
        "{name} can't be written ({error}): make the file and its directory writable, or open with readonly=True",
    ),
    (
        (apsw.CorruptError, apsw.NotADBError, apsw.FormatError),
        CorruptError,
        "{name} is damaged ({error}): run `holdfast check` on it, or restore a backup",
    ),
    (
        (apsw.CantOpenError, apsw.IOError, apsw.ProtocolError),
        UnavailableError,
        "{name} could not be read or written ({error}): see to the disk and try again; changes are kept in memory",
    ),
    ((apsw.ConnectionClosedError, apsw.CursorClosedError), ClosedError, "{name} was closed: open it again"),
    ((apsw.ConstraintError,), ConflictError, "{name} holds this already ({error})"),
    ((apsw.TooBigError,), InvalidError, "the value is too big for {name}, which holds up to 1 GB a value: split it"),
    ((apsw.NoMemError,), MemoryError, "{name}: out of memory"),
)


def _sync_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


