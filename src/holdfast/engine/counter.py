"""The counter: how a process sees, in 80 ns, that another one wrote.

One small mapped file beside the hold, `<hold>-seq`. A writer stores its sequence number in word 0 inside the write
transaction, *before* COMMIT: a reader whose newest sequence read *from the database* equals word 0 is fresh, and
any other reads the database again. So no commit that was acknowledged is ever missed, and a writer that dies
between the store and COMMIT costs only a second look.

| word | meaning |
|---|---|
| 0 | the sequence stored before COMMIT |
| 1 | the sequence that landed, stored after COMMIT; who waits sleeps on its low half |
| 2 | somebody waits until this, in milliseconds of the monotonic clock |
| 8 to 11 | the gate's (see `gate.py`) |
"""

import contextlib
import ctypes
import errno
import mmap
import os
import time

from holdfast.clock import monotonic
from holdfast.engine import futex, locks
from holdfast.errors import ReadOnlyError, UnavailableError

BYTES = 4096
STORED, LANDED, WAITED_FOR = 0, 1, 2
SUFFIX = "-seq"
NEVER_FRESH = (1 << 64) - 1

SLICE_SECONDS = 0.25
HINT_MS = 1000
POLL_SECONDS = (0.001, 0.02)
LOOK_AGAIN_SECONDS = 0.1


class Counter:
    """The mapped words of one hold: `words[0]` and `words[1]` are 64-bit unsigned integers, written whole.

    `path` is the hold's path; None makes a counter of this process alone. With `readonly` nothing is created and
    nothing may be written: if the file is missing, word 0 reads as a number that no sequence equals, so that
    every look goes to the database.
    """

    def __init__(self, path: str | None, *, readonly: bool = False) -> None:
        self.path = path
        self.readonly = readonly
        self.inode: tuple[int, int] | None = None
        self._attach()

    def _attach(self) -> None:
        fd = None if self.path is None else _open(self.path, self.readonly)
        self.blind = fd is None and self.path is not None
        self._writable = fd is None or not self.readonly
        try:
            self._map = _map(fd, self._writable)
            if fd is not None:
                self.inode = inode_of(os.fstat(fd))
        finally:
            if fd is not None:
                os.close(fd)
        self.words: memoryview[int] = memoryview(self._map).cast("Q")
        if self.blind:
            self.words[STORED] = NEVER_FRESH
        self._start = ctypes.c_char.from_buffer(self._map) if self._writable else None
        self._base = ctypes.addressof(self._start) if self._start is not None else 0

    def address(self, word: int) -> int:
        """Where the low half of a word lies in this process's memory; 0 if it can't be slept on."""
        return self._base + 8 * word if self._base and futex.AVAILABLE else 0

    def moved(self) -> bool:
        """Whether the file at the path is no longer the one that is mapped (it was deleted, perhaps made anew)."""
        if self.path is None or self.inode is None:
            return False
        try:
            return inode_of(os.stat(self.path + SUFFIX)) != self.inode
        except FileNotFoundError:
            return True

    def attach_again(self) -> None:
        """Map the file that now lies at the path; `words` is a new view."""
        self.close()
        self._attach()

    def landed(self, seq: int) -> None:
        """Say that `seq` is committed, and wake who waits for it. One store if nobody does."""
        words = self.words
        words[LANDED] = seq
        if words[WAITED_FOR] and words[WAITED_FOR] > monotonic() * 1000:
            address = self.address(LANDED)
            if address:
                futex.wake(address)

    def wait(self, seen: int, timeout: float) -> bool:
        """Block until word 1 is no longer `seen`, at most `timeout` seconds; whether it changed.

        KeyboardInterrupt comes through; other threads run on. May say True without reason: look, and wait again.
        """
        deadline = monotonic() + timeout
        if self.blind:
            time.sleep(max(0.0, min(timeout, LOOK_AGAIN_SECONDS)))
            return True
        pause, longest = POLL_SECONDS
        while self.words[LANDED] == seen:
            left = deadline - monotonic()
            if left <= 0:
                return False
            address = self.address(LANDED)
            if address:
                self._say_waiting()
                futex.sleep_while(address, seen, min(left, SLICE_SECONDS))
            else:
                time.sleep(min(left, pause))
                pause = min(pause * 2, longest)
        return True

    def _say_waiting(self) -> None:
        # All who wait store nearly the same time, and only once in a while, so it doesn't matter that two may
        # store at once. A hint that a writer misses costs one slice.
        now = int(monotonic() * 1000)
        if self.words[WAITED_FOR] < now + HINT_MS // 2:
            self.words[WAITED_FOR] = now + HINT_MS

    def close(self) -> None:
        """Unmap. `words` can't be used any more."""
        self._start = None
        self._base = 0
        with contextlib.suppress(BufferError):  # somebody still looks at the words: the map goes when they do
            self.words.release()
            self._map.close()


def inode_of(found: os.stat_result) -> tuple[int, int]:
    """What a file is, whatever it is called."""
    return found.st_dev, found.st_ino


def _map(fd: int | None, writable: bool) -> mmap.mmap:
    if fd is None:
        # Private: a forked child that goes on with its copy of a hold in memory counts for itself.
        return mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    return mmap.mmap(fd, BYTES, access=access)


def _open(path: str, readonly: bool) -> int | None:
    """A descriptor of the side file, whole; None if it is missing and must not be made."""
    beside = path + SUFFIX
    if readonly:
        try:
            fd = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        if os.fstat(fd).st_size < BYTES:
            os.close(fd)
            return None
        return fd
    fd = open_beside(path)
    try:
        if os.fstat(fd).st_size < BYTES:
            _fill(fd)
    except OSError as error:
        os.close(fd)
        raise UnavailableError(
            f"{beside!r} could not be written ({error.strerror}): free space and open again"
        ) from error
    return fd


def _fill(fd: int) -> None:
    """Give a new file its size. One process at a time: late zeros would wipe out another's first words."""
    while not locks.take(fd, locks.FILLING):
        time.sleep(0.001)
    try:
        size = os.fstat(fd).st_size
        if size < BYTES:
            # Real zeros, not a hole: a store into a hole on a full disk would kill the process (SIGBUS).
            os.pwrite(fd, bytes(BYTES - size), size)
    finally:
        locks.free(fd, locks.FILLING)


def open_beside(path: str) -> int:
    """A descriptor of its own on the side file, made if missing, as readable and writable as the hold itself."""
    beside = path + SUFFIX
    try:
        try:
            fd = os.open(beside, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            _like(path, fd)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ReadOnlyError(
                f"{beside!r}, which every writer of the hold needs, can't be written ({error.strerror}): make the "
                "directory writable, or open the hold with readonly=True"
            ) from error
        raise UnavailableError(
            f"{beside!r} could not be opened ({error.strerror}): see to it and open again"
        ) from error
    return fd


def _like(path: str, fd: int) -> None:
    """Give the side file the permissions of the hold, so that a group that shares the one shares the other."""
    with contextlib.suppress(OSError):  # no hold yet, or not ours: what the umask gave is right
        os.fchmod(fd, os.stat(path).st_mode & 0o666)
