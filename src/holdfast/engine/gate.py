"""The gate: one writer at a time, in turn, among the threads and the processes of one machine.

Inside a process it is a queue: first come, first served. Between processes it is a lock on a byte of the side
file, which the kernel frees when its holder dies. SQLite has a lock of its own, but waits for it by sleeping and
looking, and under load somebody sleeps for seconds.

Fairness between processes. Who finds the lock taken tries again for a moment, for a free lock may be had by
whoever is there: that is fast. After that moment it takes a second lock, the *turn*, and says so in a word of the
counter. From then on nobody else may take the lock without having had the turn, so it is the next; the holder sees
the word when it leaves, and wakes it. A writer with one long transaction after another can hold up the others for
one transaction and that moment each, not more. The words are hints alone: should a process die and leave one
behind, the next passer-by takes the longer way once and clears it.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from threading import Lock

from holdfast.clock import monotonic
from holdfast.engine import futex, locks
from holdfast.engine.counter import Counter, inode_of, open_beside
from holdfast.engine.process import whole
from holdfast.errors import BusyError, ClosedError, UnavailableError

HOLDER, TURN_TAKEN, FREED, TURN_FREED = 8, 9, 10, 11
"""Words of the counter: the holder's pid; whether a process has the turn; and two that change at each release."""

SHORT_TRIES_SECONDS = (0.0001, 0.0002, 0.0004)
SLICE_SECONDS = (0.005, 0.05)
POLL_SECONDS = 0.001


class Gate:
    """The writer's lock of one hold; `path` None is a hold in memory, shared by threads alone.

    `wait_seconds` is how long `acquire` waits when it is not told.
    """

    def __init__(self, path: str | None, counter: Counter, wait_seconds: float = 30.0) -> None:
        self._fd: int | None = None
        self._presence: int | None = None
        self.path = path
        self.counter = counter
        self.wait_seconds = wait_seconds
        self.owner: object = None
        self._depth = 0
        self._taken = False
        self._queue: deque[Lock] = deque()
        self._guard = Lock()
        self._closed = False
        self._forked = False
        if path is not None:
            self._open(path)

    def _open(self, path: str) -> None:
        while True:
            self._fd = open_beside(path)
            # Two descriptors, because a forked child closes the lock's and keeps the one that says it is present.
            # POSIX locks would all be lost with the first descriptor that is closed, so there it is one.
            self._presence = open_beside(path) if locks.OWNED_BY_DESCRIPTOR else self._fd
            if not self.moved():
                return
            self._close_files()
            self.counter.attach_again()

    @property
    def depth(self) -> int:
        """How often its owner entered and did not leave yet."""
        return self._depth

    def held_by(self, owner: object) -> bool:
        """Whether `owner` is inside."""
        return self._depth > 0 and self.owner == owner

    # -- in and out -------------------------------------------------------------------------------------------

    @whole
    def acquire(self, owner: object, wait_seconds: float | None = None) -> None:
        """Wait until `owner` is the only writer. The same owner may enter again, and must leave as often.

        Raises BusyError, naming who holds it, after `wait_seconds`. KeyboardInterrupt comes through.
        """
        if self._depth and self.owner == owner:
            self._depth += 1
            return
        seated = False
        waited_from = 0.0
        try:
            with self._guard:
                if not self._taken:
                    self._taken = seated = True
            if not seated:
                waited_from = monotonic()
                seated = self._queue_up(waited_from, wait_seconds)
            if self._fd is None:
                self._check_open()
            fd = self._fd
            if fd is not None:
                words = self.counter.words
                if words[TURN_TAKEN] or not locks.take(fd, locks.WRITER):
                    self._wait_for_file(fd, waited_from or monotonic(), wait_seconds)
                words[HOLDER] = os.getpid()
            self.owner = owner
            self._depth = 1
        except BaseException as error:
            if seated:
                self._give_up()
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise UnavailableError(
                    f"{self.path!r} can't be locked ({error.strerror}): put it on a local file system"
                ) from error
            raise

    @whole
    def release(self, owner: object) -> None:
        """Leave once. In a child that was forked inside, leaving does nothing: the gate is the parent's."""
        if not self._depth or self.owner != owner:
            if self._forked or self._closed:
                return
            raise RuntimeError(f"the gate of {self.path!r} is not held by {owner!r}")
        if self._depth > 1:
            self._depth -= 1
            return
        self._give_back()

    def _give_back(self) -> None:
        self._depth = 0
        self.owner = None
        fd = self._fd
        try:
            if fd is not None:
                words = self.counter.words
                words[HOLDER] = 0
                locks.free(fd, locks.WRITER)
                if words[TURN_TAKEN]:
                    self._wake(FREED)
        finally:
            self._give_back_seat()

    def _give_up(self) -> None:
        """As `_give_back`, but the file's lock may be another's: its words are left alone."""
        self._depth = 0
        self.owner = None
        try:
            if self._fd is not None:
                with contextlib.suppress(OSError):  # the lock itself may be what failed
                    locks.free(self._fd, locks.WRITER)
                if self.counter.words[TURN_TAKEN]:
                    self._wake(FREED)
        finally:
            self._give_back_seat()

    # -- waiting ----------------------------------------------------------------------------------------------

    def _queue_up(self, since: float, wait_seconds: float | None) -> bool:
        """Wait for the other threads of this process that came first; True when the seat is handed over."""
        patience = self.wait_seconds if wait_seconds is None else wait_seconds
        mine = Lock()
        mine.acquire()
        with self._guard:
            if not self._taken:
                self._taken = True
                return True
            self._queue.append(mine)
        try:
            if mine.acquire(timeout=max(0.0, patience)):
                return True
            raise self._busy(since, "another thread of this process")
        except BaseException:
            with self._guard:
                waiting = mine in self._queue
                if waiting:
                    self._queue.remove(mine)
            if not waiting:  # it was handed over in that instant
                self._give_back_seat()
            raise

    def _give_back_seat(self) -> None:
        with self._guard:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False

    def _wait_for_file(self, fd: int, since: float, wait_seconds: float | None) -> None:
        patience = self.wait_seconds if wait_seconds is None else wait_seconds
        deadline = since + patience
        words = self.counter.words
        for pause in SHORT_TRIES_SECONDS:
            if words[TURN_TAKEN] or monotonic() + pause >= deadline:
                break
            time.sleep(pause)
            if not words[TURN_TAKEN] and locks.take(fd, locks.WRITER):
                return
        self._wait_until(lambda: locks.take(fd, locks.TURN), TURN_FREED, since, deadline)
        try:
            # The holder may go on for a moment: handing over after each short write would cost a sixth of all.
            for pause in SHORT_TRIES_SECONDS:
                if locks.take(fd, locks.WRITER):
                    return
                time.sleep(pause)
            words[TURN_TAKEN] = 1
            self._wait_until(lambda: locks.take(fd, locks.WRITER), FREED, since, deadline)
        finally:
            if not self._closed:
                words[TURN_TAKEN] = 0
                locks.free(fd, locks.TURN)
                self._wake(TURN_FREED, 1)

    def _wait_until(self, taken: Callable[[], bool], word: int, since: float, deadline: float) -> None:
        words = self.counter.words
        address = self.counter.address(word)
        pause, longest = SLICE_SECONDS
        while True:
            seen = words[
                word
            ]  # read before the try: a release in between changes it, and the sleep ends at once
            if taken():
                return
            left = deadline - monotonic()
            if left <= 0:
                raise self._busy(since, self._holder())
            if address:
                # In slices, because a holder that is killed wakes nobody.
                futex.sleep_while(address, seen, min(left, pause))
                pause = min(pause * 2, longest)
            else:
                time.sleep(min(left, POLL_SECONDS))

    def _wake(self, word: int, most: int = 0x7FFFFFFF) -> None:
        words = self.counter.words
        words[word] = (words[word] + 1) & 0xFFFFFFFF
        address = self.counter.address(word)
        if address:
            futex.wake(address, most)

    def _holder(self) -> str:
        pid = self.counter.words[HOLDER]
        if pid == os.getpid():
            return "this process, which has it open twice"
        return f"process {pid}" if pid else "another process"

    def _busy(self, since: float, holder: str) -> BusyError:
        return BusyError(
            f"{self.path or ':memory:'!r} was being written by {holder} for {monotonic() - since:.1f} s: "
            "try again, or open it with a longer wait_seconds"
        )

    # -- presence ---------------------------------------------------------------------------------------------

    def presence(self) -> bool:
        """Say that this process has the hold open, and whether it is the only one that has.

        A process that leaves must do so before it lets go of the gate, so that the next one sees it gone.
        """
        if self.path is None:
            return True
        self._check_open()
        while True:
            fd = self._presence
            assert fd is not None
            alone = locks.take(fd, locks.PRESENCE)
            while not locks.share(fd, locks.PRESENCE):
                time.sleep(0.0002)  # another process is between these two lines
            # Whoever deletes the side file must be alone, so once we are present it stays; until here it may not.
            if not self.moved():
                return alone
            self.open_again()

    def moved(self) -> bool:
        """Whether the side file at the path is another one than ours: it was deleted between two of our steps."""
        ours = {inode_of(os.fstat(fd)) for fd in (self._fd, self._presence) if fd is not None}
        return self.counter.moved() or bool(ours - {self.counter.inode})

    # -- life -------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()
        if self.path is not None and self._fd is None:
            self.open_again()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self.path or ':memory:'!r} was closed: open it again")

    def open_again(self) -> None:
        """New descriptors on the file that lies at the path now; the counter follows if it is another one."""
        assert self.path is not None
        inherited, self._presence = self._presence, None
        self._close_files()
        self._open(self.path)
        if inherited is not None:
            self.presence()  # without a gap between the old one and ours
            os.close(inherited)

    def before_fork(self) -> None:
        """Keep other threads out of the few lines that touch the queue."""
        self._guard.acquire()

    def after_fork_parent(self) -> None:
        """Let them in again."""
        self._guard.release()

    def after_fork_child(self) -> None:
        """The child holds nothing and waits for nobody; its descriptor of the parent's lock is closed.

        It stays present: the descriptor that says so is inherited, and kept until the child opens its own.
        """
        self._guard = Lock()
        self._queue.clear()
        self._taken = False
        self._depth = 0
        self.owner = None
        self._forked = True
        fd, self._fd = self._fd, None
        if fd is not None:
            if self._presence == fd:
                self._presence = None
            os.close(fd)

    def close(self) -> None:
        """Give everything back; presence ends in the same instant. Who still waits gets ClosedError."""
        self._closed = True
        held, self._depth, self.owner = self._depth, 0, None
        self._close_files()
        if held:
            self._give_back_seat()

    def __del__(self) -> None:
        self._close_files()

    def _close_files(self) -> None:
        for fd in {fd for fd in (self._fd, self._presence) if fd is not None}:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fd = self._presence = None
