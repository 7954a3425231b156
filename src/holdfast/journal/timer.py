"""One thread a process that syncs what is dirty within the time limit, for all journals that are open.

It starts with the first journal that needs it and ends with the last; a forked child starts its own.
"""

import logging
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal

log = logging.getLogger("holdfast")
LOOKS_A_LIMIT = 2.5  # how often it looks within the time limit: a change waits for one look and one sync


class Timer:
    """Looks at the journals at a fraction of their time limit."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._journals: weakref.WeakKeyDictionary[Journal, float] = weakref.WeakKeyDictionary()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, journal: "Journal", seconds: float) -> None:
        """Sync `journal` at the latest `seconds` after a change."""
        with self._lock:
            self._journals[journal] = seconds / LOOKS_A_LIMIT
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="holdfast-sync", daemon=True
                )
                self._thread.start()

    def remove(self, journal: "Journal") -> None:
        """Stop looking at a journal; the thread ends with the last one."""
        with self._lock:
            self._journals.pop(journal, None)
            thread = self._thread
            if self._journals or thread is None:
                return
            self._thread = None
            self._stop.set()
        if thread is not threading.current_thread():
            thread.join()

    def after_fork_child(self) -> None:
        """Threads do not survive a fork."""
        journals = dict(self._journals)
        self._reset()
        for journal, seconds in journals.items():
            self._journals[journal] = seconds

    def ensure_running(self, journal: "Journal") -> None:
        """In a child that changes something: its own thread."""
        if self._thread is None and journal in self._journals:
            self.add(journal, self._journals[journal] * LOOKS_A_LIMIT)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(min(list(self._journals.values()), default=1.0)):
            for journal in list(self._journals):
                _sync_quietly(journal)


def _sync_quietly(journal: "Journal") -> None:
    """A failure stays visible: it is logged, and raised by the next sync that somebody calls."""
    try:
        if journal.is_dirty() and journal.transaction is None:
            journal.sync(every=False)
    except Exception:
        log.exception("could not sync %r in the background; the changes stay in memory", journal.path)


TIMER = Timer()
