"""Folding: bringing what the batches say into the rows, in slices that no caller notices.

Rare and in proportion to the table, because a row then takes several changes at once. A large backlog is folded
by walking the rows in the order of their ids, so that each page is written once whatever the order of the keys;
a small one by looking its keys up. Folding is idempotent: the batches go only after all their keys are in the
rows, so a kill at any point loses nothing and the next fold does it again.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from holdfast.codec import key_to_db
from holdfast.journal import merge
from holdfast.journal.table import FieldsTable, Table

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal

SLICE_ROWS = 8_000  # rows walked in one slice: about 10 ms
SLICE_KEYS = 3_000  # keys looked up or added in one slice
SLICE_BYTES = 1_500_000  # stored values written in one slice
LEAST_BACKLOG = 16_384  # keys; below it a fold is not worth its pages
MOST_BACKLOG = 131_072
MOST_BATCHES = 8_192  # batches to read at open
MOST_BYTES = 64_000_000
KEPT_BATCHES = 1_000  # for local readers that lag behind
KEPT_BYTES = 4_000_000
READ_AT_ONCE = 24  # batches whose values are read in one slice
DELETED_AT_ONCE = 16  # batches; their pages are freed one by one

_UPDATE = "UPDATE entry SET value=?, stamp=?, node=?, inner=?, seq=? WHERE id=?"
_UPSERT = (
    "INSERT INTO entry(id, structure, key, value, stamp, node, flags, inner, seq) VALUES(?,?,?,?,?,?,?,?,?) "
    "ON CONFLICT(structure, key) DO UPDATE SET value=excluded.value, stamp=excluded.stamp, node=excluded.node, "
    "inner=excluded.inner, seq=excluded.seq"
)


class Folder:
    """Decides when to fold, and folds. All of it under the gate and the journal's lock."""

    def __init__(self, journal: "Journal") -> None:
        self.journal = journal
        self.bytes = 0
        self._steps: Iterator[None] | None = None
        self._trimming = False
        self._limit = LEAST_BACKLOG
        self._limit_known_at = -1

    def note(self, size: int) -> None:
        """A batch of `size` bytes was appended."""
        self.bytes += size

    def backlog(self) -> int:
        """How many keys are not folded."""
        return sum(len(table.over) for table in self.journal.tables_by_id.values())

    def limit(self) -> int:
        """The backlog past which a fold starts: in proportion to the rows there are."""
        if self._limit_known_at != self.journal.folded:
            rows = sum(table.count_rows() for table in self.journal.tables_by_id.values())
            self._limit = min(max(LEAST_BACKLOG, rows * 6 // 10), MOST_BACKLOG)
            self._limit_known_at = self.journal.folded
        return self._limit

    def is_due(self) -> bool:
        if self._steps is not None or self._trimming:
            return True
        journal = self.journal
        if journal.seen - journal.folded >= MOST_BATCHES or self.bytes >= MOST_BYTES:
            return True
        backlog = self.backlog()
        return backlog >= LEAST_BACKLOG and backlog >= self.limit()

    def fold_if_due(self) -> None:
        """One slice, if a fold is due or under way."""
        if self.is_due():
            with self.journal.lock:
                self.step()

    def step(self) -> bool:
        """Do one slice; False when there is nothing left to do."""
        self.catch_up()
        if self._trimming:
            self._trimming = self._trim()
            return True
        if self._steps is None:
            if self.journal.seen == self.journal.folded:
                return False
            self._steps = self._fold()
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
        except BaseException:
            self._steps = None
            raise
        finally:
            self.journal.rows_changed()
        return True

    def catch_up(self) -> None:
        """Another process may have folded: what it brought into the rows is done here too."""
        folded = self.journal.database.value("SELECT value FROM meta WHERE key='folded'") or 0
        if folded > self.journal.folded:
            self._steps = None
            self._settle(folded)

    def fold_all(self) -> None:
        """Fold everything there is."""
        with self.journal.lock:
            while self.step():
                pass

    def _fold(self) -> Iterator[None]:
        journal = self.journal
        upto = journal.seen
        # The keys as they stand now: those that come or move meanwhile go behind them, with the next fold.
        lefts = [(table, dict.fromkeys(table.over)) for table in journal.tables_by_id.values() if table.over]
        for table, left in lefts:
            yield from self._fold_table(table, left, upto)
        self._finish(upto)

    def _fold_table(self, table: Table, left: dict[Any, None], upto: int) -> Iterator[None]:
        # Added anew after their tombstones were folded: they stand where they came now, not where they were.
        for key in table.dead_keys().intersection(left):
            if key not in table.renewed and table.is_live(key):
                table.renewed[key] = min(table.over[key], upto)
        yield from self._read_values(table)
        if len(left) * 8 > table.count_rows():
            yield from self._walk(table, left)
        yield from self._look_up(table, left, upto)

    def _read_values(self, table: Table) -> Iterator[None]:
        """Values that were left in the file, a few batches at a time."""
        if isinstance(table, FieldsTable):
            return
        wanted = sorted({seq for key, seq in table.over.items() if key not in table.cold})
        for start in range(0, len(wanted), READ_AT_ONCE):
            for seq in wanted[start : start + READ_AT_ONCE]:
                self.journal.load_values(seq)
            yield

    def _walk(self, table: Table, left: dict[Any, None]) -> Iterator[None]:
        """Update the rows there are in the order of their ids."""
        journal = self.journal
        last = table.first_id
        while True:
            rows = journal.database.rows(
                "SELECT id, key FROM entry WHERE id>=? AND id<? AND value IS NOT NULL ORDER BY id LIMIT ?",
                (last, table.end_id, SLICE_ROWS),
            )
            if not rows:
                return
            updates, keys, last = table.walk_columns(rows, SLICE_BYTES)
            last += 1
            for key in keys:
                left.pop(key, None)
            with _Writing(journal):
                journal.database.many(_UPDATE, updates)
            yield

    def _look_up(self, table: Table, left: dict[Any, None], upto: int) -> Iterator[None]:
        """Keys that are new, or too few to walk the rows for, in the order in which they came."""
        for chunk in _chunks(list(left), SLICE_KEYS):
            for part in _by_size(table, chunk):
                with _Writing(self.journal):
                    self._insert(table, part, upto)
                yield

    def _insert(self, table: Table, keys: list[Any], upto: int) -> None:
        database = self.journal.database
        keys = [key for key in keys if key in table.over and table.renewed.get(key, 0) <= upto]
        moved = [key for key in keys if key in table.renewed]
        if moved:  # deleted, or moved to the end: the old row goes in the same SQLite transaction
            for key in moved:
                table.text(key)  # a structure merged by fields needs its old row for that
                flags = table.flags_of(key)
                if flags != table.default_flags:
                    table.flags[key] = flags  # marks stay with the key
            # Of a fold that was cut short, some are there already, where they belong.
            database.many(
                "DELETE FROM entry WHERE structure=? AND key=? AND seq<?",
                [(table.id, key_to_db(key), table.renewed[key]) for key in moved],
            )
        last = database.value("SELECT max(id) FROM entry WHERE id<?", (table.end_id,)) or 0
        first = max(last + 1, table.first_id + 1)
        rows = [self._row(table, key, identity) for identity, key in enumerate(keys, first)]
        database.many(_UPSERT, rows)
        if table.flags:
            database.many(
                "UPDATE entry SET flags=? WHERE structure=? AND key=?",
                [(table.flags[k], table.id, key_to_db(k)) for k in keys if k in table.flags],
            )

    def _row(self, table: Table, key: Any, identity: int) -> tuple[Any, ...]:
        text, stamp, node, inner, seq = table.folded_columns(key)
        flags = table.flags.get(key, table.default_flags)
        return identity, table.id, key_to_db(key), text, stamp, node, flags, inner, seq

    def _finish(self, upto: int) -> None:
        """All keys up to `upto` are in the rows: say so, and forget them here."""
        journal = self.journal
        with _Writing(journal):
            self._write_flags(upto)
            journal.database.many(
                "INSERT OR REPLACE INTO meta(key, value) VALUES(?,?)",
                [("folded", upto), ("clock", journal.clock.last)],
            )
            self._drop_tombstones(upto)
        self._settle(upto)
        self._trimming = True

    def _settle(self, upto: int) -> None:
        journal = self.journal
        journal.folded = upto
        for table in journal.tables_by_id.values():
            table.settle(upto)
        for seq in [seq for seq in journal.stamps if seq <= upto]:
            del journal.stamps[seq]
        self.bytes = 0

    def _write_flags(self, upto: int) -> None:
        for table in self.journal.tables_by_id.values():
            self.journal.database.many(
                "UPDATE entry SET flags=? WHERE structure=? AND key=?",
                [(flags, table.id, key_to_db(key)) for key, flags in table.flags.items()],
            )

    def _drop_tombstones(self, upto: int) -> None:
        """Without a remote nobody needs a tombstone, save local readers that lag behind."""
        database = self.journal.database
        if database.value("SELECT 1 FROM remote") or database.value(
            "SELECT value FROM meta WHERE key='exchanged'"
        ):
            return
        oldest = upto - KEPT_BATCHES
        dead = database.value("SELECT value FROM meta WHERE key='tombstones'") or 0
        if oldest > dead:
            database.run("DELETE FROM entry WHERE value IS NULL AND seq<=?", (oldest,))
            database.run("INSERT OR REPLACE INTO meta(key, value) VALUES('tombstones', ?)", (oldest,))

    def _trim(self) -> bool:
        """Delete some of the folded batches that no reader needs; False when that is done."""
        database = self.journal.database
        upto = self.journal.folded
        rows = database.rows(
            "SELECT seq, length(keys) + length(changes) FROM batch WHERE seq<=? ORDER BY seq DESC", (upto,)
        )
        kept = 0
        room = KEPT_BYTES
        for _, size in islice(rows, KEPT_BATCHES):
            room -= size
            if room < 0 and kept:
                break
            kept += 1
        doomed = [seq for seq, _ in rows[kept:]]
        chunk = doomed[-DELETED_AT_ONCE:] if len(rows) - kept < 512 else doomed[-2_048:]
        if chunk:
            with _Writing(self.journal):
                database.run("DELETE FROM batch WHERE seq>=? AND seq<=?", (chunk[-1], chunk[0]))
        return len(chunk) < len(doomed)

    def strip_fields(self, table: FieldsTable, fields: frozenset[str]) -> None:
        """Take ephemeral fields out of every row."""
        journal = self.journal
        rows = journal.database.rows(
            "SELECT key FROM entry WHERE id>=? AND id<? AND value IS NOT NULL", (table.first_id, table.end_id)
        )
        updates = []
        for key in map(journal.key_of, rows):
            row = table.row(key)
            if row is None or row.kind == "value":
                continue
            less = merge.without(row, fields)
            if less != row:
                text = journal.encode(merge.value(less, journal.decode))
                updates.append((text, merge.stamps(less), table.id, key_to_db(key)))
        with _Writing(journal):
            journal.database.many("UPDATE entry SET value=?, inner=? WHERE structure=? AND key=?", updates)


class _Writing:
    """One SQLite transaction."""

    def __init__(self, journal: "Journal") -> None:
        self.database = journal.database

    def __enter__(self) -> None:
        self.database.begin()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.database.commit()
        else:
            self.database.rollback()


def _chunks(keys: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _by_size(table: Table, keys: list[Any]) -> Iterator[list[Any]]:
    """The keys in runs whose stored values stay under a slice's bytes."""
    run: list[Any] = []
    size = 0
    for key in keys:
        run.append(key)
        size += len(table.text(key) or "") if key in table.over else 0
        if size > SLICE_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run
