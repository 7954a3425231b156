"""What a hold is, in numbers: for a person who looks at the file."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.journal.table import Table

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal


@dataclass(frozen=True, slots=True)
class Summary:
    """Batches count from the beginning of the file; `node` is None before its first writer."""

    format: int
    node: str | None
    file_bytes: int
    log_bytes: int
    newest_batch: int
    folded_batch: int
    kept_batches: int
    tables: list[Table]


def summarize(journal: "Journal") -> Summary:
    """Cheap, whatever the size of the file."""
    database = journal.database
    with journal.lock:
        journal.refresh()
        node = database.value("SELECT uid FROM node WHERE id=(SELECT value FROM meta WHERE key='node')")
        return Summary(
            format=int(database.value("PRAGMA user_version")),
            node=None if node is None else f"{node:016x}",
            file_bytes=_bytes(journal.path),
            log_bytes=_bytes(journal.path + "-wal"),
            newest_batch=journal.seen,
            folded_batch=journal.folded,
            kept_batches=int(database.value("SELECT count(*) FROM batch")),
            tables=journal.all_tables(),
        )


def _bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
