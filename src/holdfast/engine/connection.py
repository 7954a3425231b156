"""One connection to the file: opening it, speaking to it, and the rule of forks.

All errors of SQLite become ours here. One lock lets the threads of a process take turns, because apsw refuses two
at once.

The rule of forks: before a fork the connection is closed, and both sides open their own when they next need it.
SQLite keeps its POSIX locks in a table of the process, and the kernel doesn't pass POSIX locks on: a child that
inherited the table would believe that it holds locks which it has not, and the last process to close would delete
the log under it. A fork in the middle of a transaction can't be saved that way: there the child is refused.
"""

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw

from holdfast.clock import monotonic
from holdfast.engine import opening, process, recognise, translation
from holdfast.engine.counter import Counter, inode_of
from holdfast.engine.gate import Gate
from holdfast.engine.opening import MEMORY, SYNCHRONOUS, files
from holdfast.engine.schema import FORMAT, migrate
from holdfast.errors import (
    ClosedError,
    CorruptError,
    HoldfastError,
    InvalidError,
    ReadOnlyError,
    UnavailableError,
)

FORK_WAIT_SECONDS = 5.0
BUSY_PAUSE_SECONDS = 0.002

Row = tuple[Any, ...]


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
        if durability not in SYNCHRONOUS:
            raise InvalidError(f"durability={durability!r} is not one of {', '.join(map(repr, SYNCHRONOUS))}")
        if path == MEMORY:
            if readonly:
                raise InvalidError(
                    "a hold in memory is always new, so readonly=True can't be meant: leave it out"
                )
            return cls(MEMORY, False, durability, wait_seconds)._open_memory()
        real = os.path.realpath(os.fspath(path))
        with files.lock:
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
        self._refuse_torn()
        opening.look(self.path, readonly=self.readonly, create=create)
        self._open_beside()
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

    def _open_beside(self) -> None:
        if self.readonly:
            self.counter = Counter(self.path, readonly=True)
            self.gate = Gate(None, Counter(None), self._wait_seconds)
            self.alone = False
            return
        self.counter = Counter(self.path)
        try:
            self.gate = Gate(self.path, self.counter, self._wait_seconds)
        except BaseException:
            self.counter.close()
            raise

    def _connect(self) -> None:
        """A new connection. Held: our lock, or nobody else knows us yet."""
        try:
            if self.path == MEMORY:
                connection = opening.connect_memory()
            elif self.readonly:
                connection, self._inode = opening.connect_readonly(self.path, self._on_busy)
            else:
                connection, self._inode = opening.connect(self.path, self._durability, self._on_busy)
        except apsw.Error as error:
            raise self._translated(error) from error
        self._connection = connection
        self._execute = connection.execute

    def _check_identity(self) -> None:
        assert self._connection is not None
        try:
            opening.check_identity(self._connection, self.path)
        except apsw.Error as error:
            raise self._translated(error) from error

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
        with self._lock:
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
        with self._lock:
            return self._connection is not None and self._connection.in_transaction

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
            _put_in_place(partial, target)
        except FileExistsError:
            raise InvalidError(f"{target!r} came to be meanwhile: choose another name") from None
        except OSError as error:
            if isinstance(error, HoldfastError):
                raise
            raise translation.from_system(error, f"the backup {target!r}") from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)

    def _copy_to(self, target: str) -> None:
        if self.path == MEMORY:
            self.run("VACUUM INTO ?", (target,))
            return
        with self._aside:
            with files.lock:
                if self._closed:
                    raise self._closed_error()
                self._refuse_torn()
                reader, inode = opening.connect_readonly(self.path, self._on_busy)
            try:
                reader.execute("VACUUM INTO ?", (target,)).fetchall()
            except apsw.Error as error:
                raise self._translated(error, f"the backup of {self.path!r} to {target!r}") from error
            finally:
                reader.close()
                with files.lock:
                    files.remove(inode)

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
        self._refuse_torn()
        with files.lock:
            self._connect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._execute = self._execute_later
        if connection is not None:
            connection.close()
            if self._inode is not None:
                with files.lock:
                    files.remove(self._inode)
                self._inode = None

    def close(self, last: bool = False) -> None:
        """Close the connection, the gate and the counter. `last`: nobody else has it open, leave one tidy file.

        Whoever is inside the gate is let out, in the same instant in which this process is no longer present.
        """
        with self._aside, self._lock, files.lock:
            if self._closed:
                return
            try:
                if last and not self.readonly and not self._torn:
                    self.rollback()
                    # On a full disk what was committed stays in the log, and the next to open brings it in.
                    with contextlib.suppress(UnavailableError):
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
                files.torn.add(self._inode)

    def at_exit(self) -> None:
        """Nothing is lost: what was committed is in the file."""

    # -- errors -----------------------------------------------------------------------------------------------

    def _refuse_torn(self) -> None:
        with contextlib.suppress(OSError):  # no such file, or not to be looked at: what opens it says so
            if self._torn or inode_of(os.stat(self.path)) in files.torn:
                raise ClosedError(
                    f"{self.path!r} can't be used in this process, which was forked in the middle of a transaction: "
                    "fork before or after it, or start the process by spawn"
                )

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self.path!r} was closed: open it again")

    def _translated(self, error: apsw.Error, what: str | None = None) -> Exception:
        """Our error for one of SQLite's."""
        number = self._connection.system_errno if self._connection is not None else 0
        return translation.from_sqlite(error, what or repr(self.path), number, self._wait_seconds)


def _sync_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _put_in_place(partial: str, target: str) -> None:
    try:
        os.link(partial, target)  # rename would replace what came to be there meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.rename(partial, target)
