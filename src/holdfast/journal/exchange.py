"""What two holds tell each other: `since()` of the one, `apply()` to the other.

States are exchanged, not operations, so changes may come late, twice and in any order. The rule that merges an
entry comes from the stored kind of its structure. What is marked local never gets in here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast import clock
from holdfast.codec import key_from_db, key_to_db
from holdfast.errors import CorruptError, InvalidError
from holdfast.journal import merge
from holdfast.journal.merge import Row
from holdfast.journal.table import LOCAL, FieldsTable, Part, Table

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal

FORMAT = 1
SOURCE_PEER = -1  # the source of batches that `apply` made
AT_ONCE = 5_000  # entries in one batch of an apply


@dataclass(frozen=True, slots=True)
class EntryVersion:
    """One entry as one hold has it: the whole state that merging needs."""

    structure: str
    key: Any
    row: Row


@dataclass(frozen=True)
class Changes:
    """What `Hold.since` gives and `Hold.apply` takes. `cursor` is what to ask with the next time.

    `to_bytes` and `from_bytes` carry it over any wire.
    """

    cursor: int
    structures: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> {"kind", "options"}
    entries: list[EntryVersion] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[EntryVersion]:
        return iter(self.entries)

    def to_bytes(self) -> bytes:
        entries = [(one.structure, key_to_db(one.key), merge.pack(one.row)) for one in self.entries]
        return msgspec.msgpack.encode((FORMAT, self.cursor, self.structures, entries))

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Changes":
        """Raises CorruptError for what `to_bytes` did not write."""
        try:
            version, cursor, structures, entries = msgspec.msgpack.decode(stored)
            if version != FORMAT:
                raise CorruptError(
                    f"these changes have format {version}, and this holdfast reads {FORMAT}: update it"
                )
            return cls(
                cursor,
                structures,
                [EntryVersion(name, _key(key), merge.unpack(row)) for name, key, row in entries],
            )
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise CorruptError(f"these bytes are no changes of a hold ({error})") from error


def _key(stored: Any) -> Any:
    return key_from_db(stored) if isinstance(stored, bytes) else stored


# -- giving ---------------------------------------------------------------------------------------------------


def since(journal: "Journal", cursor: int) -> Changes:
    """All entries that changed after `cursor`, each once, in its newest version."""
    journal.sync()
    with journal.writing(), journal.lock:
        if not journal.database.value("SELECT value FROM meta WHERE key='exchanged'"):
            # From now on tombstones are kept: others may have to learn of deletions.
            journal.database.run("INSERT OR REPLACE INTO meta(key, value) VALUES('exchanged', 1)")
        if cursor > journal.seen or cursor < 0:
            raise InvalidError(
                f"the cursor {cursor} is not of this hold, which is at {journal.seen}: begin with 0"
            )
        changed = _changed_keys(journal, cursor)
        entries = []
        structures = {}
        for table, keys in changed.items():
            if table.options.get("local") is True or table.kind == "dropped":
                continue
            found = [one for key in keys if (one := _version(table, key)) is not None]
            if found:
                structures[table.name] = {"kind": table.kind, "options": table.options}
                entries += found
        return Changes(journal.seen, structures, entries)


def _changed_keys(journal: "Journal", cursor: int) -> dict[Table, Iterable[Any]]:
    """Per structure the keys that changed: from the batches, or from the rows where those are gone."""
    changed: dict[Table, dict[Any, None]] = {}
    oldest = journal.database.value("SELECT min(seq) FROM batch") or journal.seen + 1
    if cursor + 1 < oldest:
        for identity, key in journal.database.rows(
            "SELECT structure, key FROM entry WHERE seq>? ORDER BY id", (cursor,)
        ):
            changed.setdefault(journal.table_of(identity), {})[_key(key)] = None
    for (keys,) in journal.database.rows("SELECT keys FROM batch WHERE seq>? ORDER BY seq", (cursor,)):
        for identity, set_keys, gone, *_ in msgspec.msgpack.decode(keys):
            changed.setdefault(journal.table_of(identity), {}).update(
                dict.fromkeys(_key(k) for k in (*set_keys, *gone))
            )
    return dict(changed)


def _version(table: Table, key: Any) -> EntryVersion | None:
    if table.flags_of(key) & LOCAL:
        return None
    row = table.row(key)
    local = table.options.get("local")
    if row is not None and row.kind == "fields" and isinstance(local, list):
        row = merge.without(row, frozenset(local))
    return None if row is None else EntryVersion(table.name, key, row)


# -- taking ---------------------------------------------------------------------------------------------------


def apply(journal: "Journal", changes: Changes, source: int = SOURCE_PEER) -> int:
    """Merge, in batches; returns how many entries are different now."""
    _refuse_future(changes)
    journal.sync()
    applied = 0
    for start in range(0, len(changes.entries), AT_ONCE):
        with journal.writing():
            journal.sync()
            applied += _apply_some(journal, changes, changes.entries[start : start + AT_ONCE], source)
            journal.folder.fold_if_due()
    return applied


def _refuse_future(changes: Changes) -> None:
    newest = max((merge.newest(one.row) for one in changes.entries), default=0)
    ahead = clock.milliseconds(newest) - clock.now_ms()
    if ahead > clock.HOUR_MS:
        culprit = next(one for one in changes.entries if merge.newest(one.row) == newest)
        raise InvalidError(
            f"{culprit.structure}[{culprit.key!r}] was written {ahead / clock.HOUR_MS:.1f} hours in the future: the "
            "clock of the machine that wrote it is wrong (or this one's is). Nothing was applied; set the clock"
        )


def _apply_some(journal: "Journal", changes: Changes, entries: list[EntryVersion], source: int) -> int:
    if not journal.database.value("SELECT value FROM meta WHERE key='exchanged'"):
        journal.database.run("INSERT OR REPLACE INTO meta(key, value) VALUES('exchanged', 1)")
    by_table: dict[Table, list[tuple[Any, Row, bool]]] = {}
    merged: dict[tuple[str, Any], Row] = {}
    with journal.lock:
        for one in entries:
            table = _table_for(journal, changes, one)
            mine = merged.get((one.structure, one.key)) or table.row(one.key)
            kept = one.row if mine is None else _keep_local(table, mine, merge.join(mine, one.row))
            journal.clock.observe(merge.newest(kept))
            if kept != mine:
                merged[one.structure, one.key] = kept
                by_table.setdefault(table, []).append((one.key, kept, mine is not None and not mine.alive))
        if not by_table:
            return 0
        journal.append([_part(journal, table, kept) for table, kept in by_table.items()], source)
        for table, rows in by_table.items():
            if table.structure is not None:
                table.structure._foreign([key for key, _, _ in rows])
    return len(merged)


def _keep_local(table: Table, mine: Row, kept: Row) -> Row:
    """A row that was replaced elsewhere as a whole knows nothing of the fields that never left this file."""
    local = table.options.get("local")
    if not isinstance(local, list) or kept.kind != "fields" or mine.kind != "fields":
        return kept
    missing = {name: mine.body[name] for name in local if name in mine.body and name not in kept.body}
    return kept._replace(body={**kept.body, **missing}) if missing else kept


def _table_for(journal: "Journal", changes: Changes, one: EntryVersion) -> Table:
    described = changes.structures.get(one.structure)
    if described is None:
        raise CorruptError(f"the changes speak of {one.structure!r} and do not say what it is")
    table = journal.table(one.structure, described["kind"], described["options"])
    mine, theirs = table.options.get("merge"), described["options"].get("merge")
    if mine != theirs:
        raise InvalidError(
            f"{one.structure!r} merges by {mine!r} here and by {theirs!r} there: copy it to a new name on one side"
        )
    return table


def _part(journal: "Journal", table: Table, kept: list[tuple[Any, Row, bool]]) -> Part:
    latest = {key: (row, anew) for key, row, anew in kept}
    if isinstance(table, FieldsTable):
        renewed = [key for key, (row, anew) in latest.items() if anew and row.alive]
        return Part(table, list(latest), [merge.pack(row) for row, _ in latest.values()], [], renewed, {})
    alive = {key: row for key, (row, _) in latest.items() if row.alive}
    dead = {key: row for key, (row, _) in latest.items() if not row.alive}
    stamps = [(row.epoch[0], journal.node_of(row.epoch[1])) for row in (*dead.values(), *alive.values())]
    renewed = [key for key in alive if latest[key][1]]
    return Part(
        table, list(alive), [row.body for row in alive.values()], list(dead), renewed, {"stamps": stamps}
    )
