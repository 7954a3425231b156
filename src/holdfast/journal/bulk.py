"""Bulk loading: many entries straight into the rows, in batches that name their keys and hold no values.

A batch whose part has the meta "rows" says: the newest versions of these keys were in the rows when it was
committed. Whoever takes it in forgets what older batches said of them. Rows and batch are one SQLite transaction.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from holdfast.codec import keys_to_db, plain_key
from holdfast.errors import InvalidError
from holdfast.journal.identity import mark_open
from holdfast.journal.table import Part, Table

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal

LEAST = 4_096  # entries that are worth it
_TEXT: frozenset[type] = frozenset((str,))
CHUNK = 8_192  # entries in one SQLite transaction: some 30 ms


def load(
    journal: "Journal", table: Table, pairs: Iterable[tuple[Any, Any]], encode: Callable[[Any], Any]
) -> Iterator[list[Any]]:
    """Store `pairs`, in order; yields the keys of each batch when it is in the file.

    `encode(value)` gives what is stored. Under the gate, with nothing unsynced in this structure. An
    exception, of the pairs or of encoding, leaves the batches before it stored and the rest not.
    """
    pairs = iter(pairs)
    while True:
        chunk = dict(islice(pairs, CHUNK))
        if not chunk:
            return
        if not _TEXT.issuperset(map(type, chunk)):
            chunk = {plain_key(key): value for key, value in chunk.items()}
        texts = _encode_all(table, chunk, encode)
        if table.over or table.flags:
            journal.folder.fold_all()  # older keys stand before these, and rows of deleted ones must go
        _store(journal, table, list(chunk), texts)
        yield list(chunk)


def _encode_all(table: Table, chunk: dict[Any, Any], encode: Callable[[Any], Any]) -> list[Any]:
    try:
        return list(map(encode, chunk.values()))
    except InvalidError:
        for key, value in chunk.items():
            try:
                encode(value)
            except InvalidError as error:
                raise InvalidError(f"{table.name}[{key!r}] was not stored: {error}") from None
        raise


def _store(journal: "Journal", table: Table, keys: list[Any], texts: list[Any]) -> None:
    database = journal.database
    with journal.lock:
        seq, stamp = journal.seen + 1, journal.clock.tick()
        empty = table.count_rows() == 0 and not table.over and not _has_tombstones(table)
        last = database.value("SELECT max(id) FROM entry WHERE id<?", (table.end_id,)) or 0
        first = max(last + 1, table.first_id + 1)
        conflict = (
            ""
            if empty
            else "ON CONFLICT(structure, key) DO UPDATE SET value=excluded.value, stamp=excluded.stamp, "
            "node=excluded.node, inner=NULL, seq=excluded.seq"
        )
        insert = (
            "INSERT INTO entry(id, structure, key, value, stamp, node, flags, inner, seq) "
            f"VALUES(?,{table.id},?,?,{stamp},{journal.here},{table.default_flags},NULL,{seq}) {conflict}"
        )
        rows = zip(range(first, first + len(keys)), keys_to_db(keys), texts, strict=True)
        if not journal.is_marked_open:
            mark_open(journal)
        database.begin()
        try:
            if not empty and table.dead_count:
                database.many(
                    f"DELETE FROM entry WHERE structure={table.id} AND key=? AND value IS NULL "
                    f"AND flags={table.default_flags}",
                    ((key,) for key in keys_to_db(keys)),
                )
            database.many(insert, rows)
            journal.append([Part(table, keys, [], [], [], {"rows": True})])
            database.commit()
        except BaseException:
            database.rollback()
            journal.reload()
            raise
        journal.rows_changed()


def _has_tombstones(table: Table) -> bool:
    return bool(
        table.journal.database.value(
            "SELECT 1 FROM entry WHERE id>=? AND id<? AND value IS NULL LIMIT 1",
            (table.first_id, table.end_id),
        )
    )
