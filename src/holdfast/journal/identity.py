"""Who this file is: its node id, and how a copy of it notices that it is one.

Two files with one node id would write equal stamps, so a copied file (another device or inode) takes a new id.
A copy of a hold in use may lack what was in its `-wal`: that is refused, since it looks whole and is not.
"""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast import clock
from holdfast.engine import recognise
from holdfast.engine.connection import Database
from holdfast.engine.counter import SUFFIX
from holdfast.errors import CorruptError, InvalidError

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal


def fingerprint(path: str) -> str:
    """What tells this file from a copy of it: machine, device and inode."""
    if path == ":memory:":
        return path
    found = os.stat(path)
    return f"{_machine()}:{found.st_dev}:{found.st_ino}"


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return os.uname().nodename


def adopt_identity(journal: "Journal", had_wal: bool) -> int:
    """The number of our node in this file; a new node for a new file or a copy. Under the gate."""
    database = journal.database
    mine = fingerprint(journal.path)
    stored: dict[str, Any] = dict(
        database.rows("SELECT key, value FROM meta WHERE key IN ('fingerprint', 'node', 'open')")
    )
    if stored.get("fingerprint") == mine:
        journal.is_marked_open = bool(stored.get("open"))
        return int(stored["node"])
    if stored.get("open") and not had_wal:
        raise CorruptError(torn_copy_message(journal.path))
    return _become_new_node(journal, mine)


def torn_copy_message(path: str) -> str:
    """Why a copy is refused, and what to do."""
    return (
        f"{path!r} is a copy of a hold that was in use: its newest changes were in the '-wal' file "
        "beside the original and are missing here. Make copies with hold.backup(path) or `holdfast backup`; "
        "to use this copy all the same, run `holdfast check --adopt` on it"
    )


def is_torn_copy(path: str) -> bool:
    """Whether opening this file for writing would be refused, because it is a copy without its `-wal`."""
    if recognise.has_log(path):
        return False
    database = Database.open(path, readonly=True)
    try:
        rows = database.rows("SELECT key, value FROM meta WHERE key IN ('fingerprint', 'open')")
        stored: dict[str, Any] = dict(rows)
        return bool(stored.get("open")) and stored.get("fingerprint") != fingerprint(database.path)
    finally:
        database.close()


def adopt_copy(path: str) -> None:
    """Let such a copy be opened as it is, without what it lacks. InvalidError if the file needs no adopting."""
    if not is_torn_copy(path):
        raise InvalidError(
            f"{path!r} is no copy of a hold in use, so there is nothing to adopt: open it as it is"
        )
    mark_whole(path)


def mark_whole(path: str) -> None:
    """Say of a copy that nobody has open yet that nothing is missing in it."""
    database = Database.open(path, create=False)
    try:
        database.gate.acquire(mark_whole)
        database.run("INSERT OR REPLACE INTO meta(key, value) VALUES('open', 0)")
    finally:
        database.close(last=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + SUFFIX)


def _become_new_node(journal: "Journal", mine: str) -> int:
    database = journal.database
    if database.value("SELECT 1 FROM batch"):
        journal.here = int(database.value("SELECT value FROM meta WHERE key='node'") or 0)
        journal._load()
        journal.folder.fold_all()  # its unfolded batches were written by the old node
        journal.reload()
    database.begin()
    database.run("INSERT INTO node(uid) VALUES(?)", (clock.new_node(),))
    node = int(database.value("SELECT max(id) FROM node"))
    database.many(
        "INSERT OR REPLACE INTO meta(key, value) VALUES(?,?)",
        [("fingerprint", mine), ("node", node), ("open", 0)],
    )
    database.commit()
    return node


def mark_open(journal: "Journal") -> None:
    """Before the first write: from here on a plain copy of the file may lack what is in the log.

    The mark must be in the file itself, where a copy has it, so the log is brought in once.
    """
    journal.database.run("INSERT OR REPLACE INTO meta(key, value) VALUES('open', 1)")
    journal.database.checkpoint()
    journal.is_marked_open = True


def mark_closed(journal: "Journal") -> None:
    """The last process leaves in order: from here on a plain copy of the file is whole."""
    journal.database.run("INSERT OR REPLACE INTO meta(key, value) VALUES('open', 0)")
