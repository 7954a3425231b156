"""A transaction: one batch over any number of structures, written whole or not at all.

Which transaction code runs in is a context variable, so it follows asyncio tasks and not just threads.
"""

import threading
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from holdfast.errors import ClosedError

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal
    from holdfast.journal.table import Structure

_current: ContextVar["Transaction | None"] = ContextVar("holdfast_transaction", default=None)


def current(journal: "Journal") -> "Transaction | None":
    """The transaction on this journal that the calling code runs in."""
    active = _current.get()
    while active is not None and active.journal is not journal:
        active = active.outer
    return active


class Transaction:
    """One transaction; made by `Hold.transaction()`. Nested ones on the same hold join the outer one."""

    def __init__(self, journal: "Journal", wait_seconds: float | None = None) -> None:
        self.journal = journal
        self.wait_seconds = wait_seconds
        self.outer: Transaction | None = None
        self.thread = threading.get_ident()
        self.touched: dict[int, tuple[Structure, set[Any]]] = {}  # by the id of the table
        self.owner: object = self  # who is in the gate for it
        self.orphaned = False  # begun by the parent process, before a fork
        self._joined = False
        self._token: Token[Transaction | None] | None = None

    def touch(self, structure: "Structure", key: Any) -> None:
        """Note that this transaction changes a key, so that it can be undone and hidden from others."""
        touched = self.touched.get(structure._table.id)
        if touched is not None and key in touched[1]:
            return
        with self.journal.lock:  # who reads the value from outside has it, or comes after this
            if touched is None:
                touched = self.touched[structure._table.id] = (structure, set())
            touched[1].add(key)

    def touches(self, structure: "Structure", key: Any) -> bool:
        """Whether this transaction changes a key."""
        touched = self.touched.get(structure._table.id)
        return touched is not None and key in touched[1]

    def start(self, thread: int | None = None) -> None:
        """Take the gate. May wait. `thread`: where the block will run, if not here."""
        if current(self.journal) is not None:
            self._joined = True
            return
        self.thread = thread or threading.get_ident()
        self.journal.begin(self, self.wait_seconds)

    def enter_context(self) -> None:
        """From here on the calling context is inside."""
        if not self._joined:
            self.outer = _current.get()
            self._token = _current.set(self)

    def leave_context(self) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None

    def finish(self, failed: bool) -> None:
        """Commit, or undo everything if the block failed."""
        if self._joined:
            return
        if self.orphaned:
            raise ClosedError(
                f"the transaction on {self.journal.path!r} was begun before a fork and belongs to the parent "
                "process: begin one of your own in the child"
            )
        if failed:
            self.journal.rollback(self)
        else:
            self.journal.commit(self)

    def __enter__(self) -> "Transaction":
        self.start()
        self.enter_context()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.finish(failed=kind is not None)
        finally:
            self.leave_context()
