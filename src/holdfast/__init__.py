"""Python data structures that persist, are shared, and sync: one file on disk, many processes, many machines.

hold = holdfast.open("crawl.hold")
pages = hold.dict("pages")
pages["/"] = {"title": "Home", "links": []}
pages["/"]["links"].append("/about")        # seen and kept, at any depth
"""

from holdfast.errors import (
    BusyError,
    ClosedError,
    ConflictError,
    CorruptError,
    HoldfastError,
    InvalidError,
    MissingError,
    ReadOnlyError,
    UnavailableError,
)
from holdfast.hold import Hold, open
from holdfast.journal.exchange import Changes
from holdfast.journal.transaction import Transaction
from holdfast.journal.watch import Change, Watcher
from holdfast.structures.dictionary import Dict
from holdfast.structures.tracker import Task, Tracker

__version__ = "0.1.0"

__all__ = [
    "BusyError",
    "Change",
    "Changes",
    "ClosedError",
    "ConflictError",
    "CorruptError",
    "Dict",
    "Hold",
    "HoldfastError",
    "InvalidError",
    "MissingError",
    "ReadOnlyError",
    "Task",
    "Tracker",
    "Transaction",
    "UnavailableError",
    "Watcher",
    "open",
]
