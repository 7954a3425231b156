"""Looking at a file as a whole: every invariant of it, and removing a structure."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.codec import decode
from holdfast.errors import CorruptError, MissingError
from holdfast.journal import merge
from holdfast.journal.table import ID_BITS

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal

SHOWN = 20  # problems of one kind that are told one by one
KINDS = frozenset(("dict", "tracker", "records", "collection", "catalog"))


def drop(journal: "Journal", name: str) -> None:
    """Remove a structure, its entries and its place in the batches that are kept."""
    table = journal.find_table(name)
    if table is None:
        raise MissingError(f"there is no structure {name!r} in {journal.path!r}")
    journal.sync()
    with journal.writing(), journal.lock:
        journal.folder.fold_all()
        if table.structure is not None:
            table.structure._close()
        database = journal.database
        database.begin()
        database.run("DELETE FROM entry WHERE id>=? AND id<?", (table.first_id, table.end_id))
        database.run("DELETE FROM structure WHERE id=?", (table.id,))
        database.commit()
        journal.tables.pop(name, None)
        journal.tables_by_id.pop(table.id, None)


def check(journal: "Journal") -> list[str]:
    """What is wrong with the file, in words."""
    with journal.lock:
        problems = [f"SQLite: {line}" for line in journal.database.integrity()]
        if not problems:
            for look in (_check_meta, _check_structures, _check_entries, _check_batches, _check_counter):
                problems += _first(look(journal))
    return problems


def _first(problems: Iterator[str]) -> list[str]:
    found = list(problems)
    more = len(found) - SHOWN
    return found[:SHOWN] + ([f"… and {more} more of this kind"] if more > 0 else [])


def _check_meta(journal: "Journal") -> Iterator[str]:
    meta: dict[str, Any] = dict(journal.database.rows("SELECT key, value FROM meta"))
    newest = journal.database.value("SELECT max(seq) FROM batch") or 0
    if (meta.get("folded") or 0) > max(newest, meta.get("folded") or 0):
        yield "meta: folded is past the newest batch"
    if not journal.readonly and meta.get("node") is None:
        yield "meta: the file has no node id"
    if meta.get("node") is not None and not journal.database.value(
        "SELECT 1 FROM node WHERE id=?", (meta["node"],)
    ):
        yield f"meta: node {meta['node']} is not in the table of nodes"


def _check_structures(journal: "Journal") -> Iterator[str]:
    for identity, name, kind, options in journal.database.rows(
        "SELECT id, name, kind, options FROM structure"
    ):
        if kind not in KINDS:
            yield f"structure {name!r} (id {identity}) has the unknown kind {kind!r}"
        try:
            json.loads(options)
        except ValueError:
            yield f"structure {name!r} has options that are not JSON"


def _check_entries(journal: "Journal") -> Iterator[str]:
    tables = {table.id: table for table in journal.all_tables()}
    newest = max(journal.seen, journal.folded)
    last = 0
    while rows := journal.database.rows(
        "SELECT id, structure, key, value, stamp, node, flags, inner, seq FROM entry WHERE id>? ORDER BY id LIMIT 5000",
        (last,),
    ):
        for row in rows:
            yield from _check_entry(journal, tables, newest, row)
        last = rows[-1][0]


def _check_entry(
    journal: "Journal", tables: dict[int, Any], newest: int, row: tuple[Any, ...]
) -> Iterator[str]:
    identity, structure, key, value, stamp, node, flags, inner, seq = row
    table = tables.get(structure)
    where = f"entry {identity} ({table.name if table else structure}[{key!r}])"
    if table is None:
        yield f"{where}: its structure does not exist"
        return
    if identity >> ID_BITS != structure:
        yield f"{where}: its id is not of its structure"
    if seq > newest:
        yield f"{where}: its batch {seq} is newer than the newest, {newest}"
    if stamp < 0 or not 0 <= flags < 8:
        yield f"{where}: stamp {stamp} or flags {flags} out of range"
    if node and not _knows_node(journal, node):
        yield f"{where}: its node {node} is not in the table of nodes"
    yield from _check_value(where, table, value, inner)


def _knows_node(journal: "Journal", node: int) -> bool:
    try:
        journal.uid_of(node)
    except KeyError:
        return False
    return True


def _check_value(where: str, table: Any, value: Any, inner: bytes | None) -> Iterator[str]:
    if value is not None and table.options.get("serializer", "json") == "json":
        if not isinstance(value, str):
            yield f"{where}: its value is not text"
            return
        try:
            plain = decode(value)
        except CorruptError:
            yield f"{where}: its value is not JSON: {value[:40]!r}"
            return
        if inner is not None:
            try:
                merge.reassemble(plain, (0, 0), True, inner, json.dumps)
            except (CorruptError, KeyError, ValueError, TypeError, AttributeError) as error:
                yield f"{where}: its inner stamps do not fit its value ({error})"


def _check_batches(journal: "Journal") -> Iterator[str]:
    expected = None
    identities = {table.id for table in journal.all_tables()}
    for seq, keys, changes in journal.database.rows("SELECT seq, keys, changes FROM batch ORDER BY seq"):
        if expected is not None and seq != expected:
            yield f"batch {seq} follows {expected - 1}: those between are missing"
        expected = seq + 1
        try:
            heads, bodies = msgspec.msgpack.decode(keys), msgspec.msgpack.decode(changes)
            for (identity, set_keys, *_), (values, meta) in zip(heads, bodies, strict=True):
                if len(set_keys) != len(values) and not (meta or {}).get("rows"):
                    yield f"batch {seq}: {len(set_keys)} keys and {len(values)} values"
                if identity not in identities and seq > journal.folded:
                    yield f"batch {seq} speaks of structure {identity}, which does not exist"
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            yield f"batch {seq} can't be read ({error})"
    if expected is not None and journal.folded and expected <= journal.folded:
        yield f"the newest batch is {expected - 1}, but {journal.folded} was folded"


def _check_counter(journal: "Journal") -> Iterator[str]:
    newest = journal.database.value("SELECT max(seq) FROM batch") or journal.folded
    counter = journal.database.counter.words[0]
    if not journal.readonly and counter < newest:
        yield f"the counter file says {counter} and the newest batch is {newest}: readers would miss changes"
