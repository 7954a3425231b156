"""Time, identity and randomness: the only door to them, so that a test can stand in its place.

A hybrid logical clock (Kulkarni et al. 2014) is one 64-bit integer, 48 bits of Unix milliseconds over 16 bits
of counter: it never runs backwards, stays close to wall time, and is later than every stamp it has seen.
"""

import os
import threading
import time

COUNTER_BITS = 16
HOUR_MS = 3_600_000


def now_ms() -> int:
    """Wall time in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def now_seconds() -> float:
    """Wall time in seconds since the Unix epoch."""
    return time.time()


def monotonic() -> float:
    """Seconds on a clock that never steps; on one machine the same for all processes."""
    return time.monotonic()


def new_node() -> int:
    """A new node id: 63 random bits, never 0."""
    return (int.from_bytes(os.urandom(8), "big") >> 1) or 1


def milliseconds(stamp: int) -> int:
    """The wall-time part of a hybrid stamp."""
    return stamp >> COUNTER_BITS


class HybridClock:
    """The clock of one hold. Thread-safe; `last` is the newest stamp that it gave or saw."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._lock = threading.Lock()

    def tick(self) -> int:
        """A stamp later than every earlier one, given or seen."""
        with self._lock:
            self.last = max(now_ms() << COUNTER_BITS, self.last + 1)
            return self.last

    def observe(self, stamp: int) -> None:
        """Take in a stamp that came from elsewhere, so that the next tick is later than it."""
        with self._lock:
            self.last = max(self.last, stamp)

    def reset_after_fork(self) -> None:
        """A lock that another thread held at the fork would never be released in the child."""
        self._lock = threading.Lock()
