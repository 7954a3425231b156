"""The newest stored state of one structure: its rows, and over them the batches that are not folded yet.

`over` says which unfolded batch has the newest version of a key, in the order in which keys arrived; `cold` holds
that version's stored value (None for a deletion), or does not yet, if the batch was written before this process
looked. All of it is changed only under the journal's lock.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from holdfast.codec import Stored, key_from_db, key_to_db
from holdfast.journal import merge
from holdfast.journal.merge import Row

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal

ID_BITS = 40  # entry.id = structure << 40 | order of arrival: the rows of one structure are one range
LOCAL, EPHEMERAL = 1, 2  # flags of an entry: never leaves this file; not kept across a restart
MOST_PRESENT = 200_000  # keys of which it is remembered whether they have a row
KEPT_IN_MEMORY = 64  # values; those of larger batches are read again from the file if they are wanted
_VALUE_OF = "SELECT value FROM entry WHERE structure=? AND key=?"
_MISSING: Any = object()


class Part(NamedTuple):
    """What one batch changes in one structure. Keys as Python has them; deletions come first."""

    table: "Table"
    keys: list[Any]
    values: list[Any]  # stored values; for structures merged by fields, packed delta rows
    gone: list[Any]
    renewed: list[Any]  # keys among `keys` that move to the end
    meta: dict[
        str, Any
    ]  # "stamps": a (stamp, node) for each key, where they came from elsewhere; "flags"; "rows": see bulk.py


class Structure(Protocol):
    """What a structure that is open does for its table."""

    _table: "Table"
    _seen: int

    def _collect(self, every: bool) -> Part | None: ...
    def _refusal(self) -> Exception | None: ...
    def _keep(self, part: Part) -> None: ...
    def _after_fork(self) -> None: ...
    def _foreign(self, keys: Iterable[Any]) -> None: ...
    def _forget(self) -> None: ...
    def _enter(self, transaction: Any) -> None: ...
    def _leave(self) -> None: ...
    def _undo(self, keys: Iterable[Any]) -> None: ...
    def _close(self) -> None: ...
    def _is_dirty(self) -> bool: ...


class Table:
    """A structure whose entries are whole values: the last writer of a key wins."""

    def __init__(
        self, journal: "Journal", identity: int, name: str, kind: str, options: dict[str, Any]
    ) -> None:
        self.journal = journal
        self.id = identity
        self.name = name
        self.kind = kind
        self.options = options
        self.structure: Structure | None = None
        self.settled = 0  # how often keys left `over`: what was read of the rows before is void
        self.first_id = identity << ID_BITS
        self.end_id = (identity + 1) << ID_BITS
        self.default_flags = (LOCAL if options.get("local") is True else 0) | (
            EPHEMERAL if options.get("ephemeral") is True else 0
        )
        self.forget()

    def forget(self) -> None:
        """Know nothing beyond the rows; the journal loads the unfolded batches again."""
        self.over: dict[Any, int] = {}
        self.cold: dict[Any, Stored | None] = {}
        self.renewed: dict[Any, int] = {}  # deleted or moved by that batch: the old row goes
        self.stamped: dict[Any, tuple[int, int]] = {}  # versions that came from elsewhere
        self.flags: dict[Any, int] = {}
        self.present: dict[Any, bool] = {}  # keys looked for among the rows
        self.row_count: int | None = None
        self.dead_count = 0
        self.settled += 1

    # -- reading ----------------------------------------------------------------------------------------------

    def text(self, key: Any) -> Stored | None:
        """The newest stored value, or None where there is none."""
        found = self.cold.get(key, _MISSING)
        if found is not _MISSING:
            return found  # type: ignore[no-any-return]
        if key in self.over:
            return self._text_of_batch(key)
        return self.journal.database.value(  # type: ignore[no-any-return]
            _VALUE_OF, (self.id, key if key.__class__ is str and key.isascii() else key_to_db(key))
        )

    def row_value(self, key: Any) -> Stored | None:
        return self.journal.database.value(_VALUE_OF, (self.id, key_to_db(key)))  # type: ignore[no-any-return]

    def _text_of_batch(self, key: Any) -> Stored | None:
        if not self.journal.load_values(self.over[key]):
            self.journal.reload()  # another process folded that batch meanwhile
            return self.text(key)
        return self.cold[key]

    def has(self, key: Any) -> bool:
        """Whether the key is stored, without reading its value where that can be helped."""
        found = self.cold.get(key, _MISSING)
        if found is not _MISSING:
            return found is not None
        return key in self.over or self.has_row(key)

    def has_row(self, key: Any) -> bool:
        self.journal.check_rows_version()
        found = self.present.get(key)
        if found is None:
            found = bool(
                self.journal.database.value(
                    "SELECT 1 FROM entry WHERE structure=? AND key=? AND value IS NOT NULL",
                    (self.id, key_to_db(key)),
                )
            )
            if len(self.present) > MOST_PRESENT:
                self.present.clear()
            self.present[key] = found
        return found

    def forget_counts(self) -> None:
        self.present.clear()
        self.row_count = None

    def count_rows(self) -> int:
        """How many rows are alive (unfolded batches not counted)."""
        self.journal.check_rows_version()
        if self.row_count is None:
            ((self.row_count, self.dead_count),) = self.journal.database.rows(
                "SELECT count(value), count(*) - count(value) FROM entry WHERE id>=? AND id<?",
                (self.first_id, self.end_id),
            )
        return self.row_count or 0

    def dead_keys(self) -> set[Any]:
        """Keys of which the rows keep a tombstone."""
        self.count_rows()
        if not self.dead_count:
            return set()
        rows = self.journal.database.rows(
            "SELECT key FROM entry WHERE id>=? AND id<? AND value IS NULL", (self.first_id, self.end_id)
        )
        return set(map(self.journal.key_of, rows))

    def count(self) -> int:
        """How many keys are stored."""
        unknown = [key for key in self.over if key not in self.present]
        if len(unknown) > max(500, self.count_rows() // 20):
            rows = self.journal.database.rows(
                "SELECT key FROM entry WHERE id>=? AND id<? AND value IS NOT NULL",
                (self.first_id, self.end_id),
            )
            stored = set(map(self.journal.key_of, rows))
            self.present.update((key, key in stored) for key in unknown)
        changed = sum(self.is_live(key) - self.has_row(key) for key in self.over)
        return self.count_rows() + changed

    def is_live(self, key: Any) -> bool:
        return self.cold.get(key, "") is not None

    def stamp_of(self, key: Any) -> tuple[int, int]:
        """(stamp, node) of an unfolded key."""
        return self.stamped.get(key) or self.journal.stamps[self.over[key]]

    def flags_of(self, key: Any) -> int:
        found = self.flags.get(key)
        if found is None:
            found = self.journal.database.value(
                "SELECT flags FROM entry WHERE structure=? AND key=?", (self.id, key_to_db(key))
            )
        return self.default_flags if found is None else found

    def row(self, key: Any) -> Row | None:
        """The newest version as the algebra of merging sees it; None if the key was never here."""
        if key in self.over:
            text = self.text(key)
            stamp, node = self.stamp_of(key)
        else:
            found = self.journal.database.rows(
                "SELECT value, stamp, node FROM entry WHERE structure=? AND key=?", (self.id, key_to_db(key))
            )
            if not found:
                return None
            text, stamp, node = found[0]
        return Row("value", (stamp, self.journal.uid_of(node)), text is not None, text)

    # -- taking in a batch ------------------------------------------------------------------------------------

    def absorb(self, seq: int, part: Part) -> None:
        """Take in what a batch says, now that it is in the file."""
        if part.meta.get("rows"):
            self._absorb_rows(part.keys)
            return
        for key in part.gone:
            self.over.pop(key, None)
            self.over[key] = seq
            self.cold[key] = None
            self.renewed[key] = seq
        for key in part.renewed:
            self.over.pop(key, None)
            self.renewed[key] = seq
        self.over.update(dict.fromkeys(part.keys, seq))
        self._absorb_values(part)
        if self.stamped:
            for key in (*part.gone, *part.keys):
                self.stamped.pop(key, None)
        stamps = part.meta.get("stamps")
        if stamps:
            self.stamped.update(zip((*part.gone, *part.keys), map(tuple, stamps), strict=True))
        flags = part.meta.get("flags")
        if flags:
            self.flags.update(zip(part.keys, flags, strict=True))

    def was_deleted(self, key: Any) -> bool:
        """Whether a batch that is not folded deleted it: set anew it goes to the end, and its batch must say so."""
        return key in self.renewed and self.cold.get(key, "") is None

    def absorb_one(self, seq: int, key: Any, text: Stored) -> None:
        """As `absorb`, for the assignment of one key."""
        if self.was_deleted(key):
            del self.over[key]  # it was deleted: it goes to the end
            self.renewed[key] = seq
        self.over[key] = seq
        self.cold[key] = text
        if self.stamped:
            self.stamped.pop(key, None)

    def _absorb_rows(self, keys: Iterable[Any]) -> None:
        """The newest versions of these keys are in the rows already (see bulk.py)."""
        self.settled += 1
        for known in (self.over, self.cold, self.stamped, self.flags):
            if not known.keys().isdisjoint(keys):
                for key in keys:
                    known.pop(key, None)
        self.forget_counts()

    def absorb_own(self, seq: int, part: Part) -> None:
        """As `absorb`, for a batch that was made here: of a large one, the values stay in the file."""
        if len(part.keys) > KEPT_IN_MEMORY and not part.meta and not self.stamped:
            self.absorb_keys(seq, part.keys, part.gone, part.renewed)
        else:
            self.absorb(seq, part)

    def _absorb_values(self, part: Part) -> None:
        self.cold.update(zip(part.keys, part.values, strict=True))

    def absorb_keys(self, seq: int, keys: Sequence[Any], gone: Sequence[Any], renewed: Sequence[Any]) -> None:
        """Take in which keys a batch changes; the values are read when they are wanted."""
        over = self.over
        for key in gone:
            over.pop(key, None)
            over[key] = seq
            self.renewed[key] = seq
            self.cold[key] = None
        for key in renewed:
            over.pop(key, None)  # it comes again among the keys, at its place
            self.renewed[key] = seq
        for key in keys:  # half the time of an update with dict.fromkeys
            over[key] = seq
        if not self.cold.keys().isdisjoint(keys):
            for key in keys:
                self.cold.pop(key, None)

    # -- for the fold -----------------------------------------------------------------------------------------

    def folded_columns(self, key: Any) -> tuple[Any, int, int, bytes | None, int]:
        """value, stamp, node, inner, seq of an unfolded key as they go into its row."""
        text = self.text(key)
        stamp, node = self.stamp_of(key)
        return text, stamp, node, None, self.over[key]

    def walk_columns(
        self, rows: Iterable[tuple[int, Any]], most_bytes: int
    ) -> tuple[list[Any], list[Any], int]:
        """Of (id, key) rows, those that are to be brought up to date: their columns, their keys, the last id looked at.

        The inner loop of a fold, hence written out.
        """
        over, cold, renewed, stamped = self.over, self.cold, self.renewed, self.stamped
        stamps = self.journal.stamps
        updates: list[Any] = []
        keys: list[Any] = []
        size = last = 0
        for last, stored in rows:
            key = key_from_db(stored) if stored.__class__ is bytes else stored
            seq = over.get(key)
            if seq is None or key in renewed:
                continue
            text = cold[key] if key in cold else self.text(key)
            stamp, node = stamped[key] if key in stamped else stamps[seq]
            updates.append((text, stamp, node, None, seq, last))
            keys.append(key)
            size += len(text or "")
            if size > most_bytes:
                break
        return updates, keys, last

    def settle(self, upto: int) -> None:
        """The batches up to `upto` are folded: what they said is in the rows now."""
        over, cold = self.over, self.cold
        self.settled += 1
        self.over = {key: seq for key, seq in over.items() if seq > upto}
        self.cold = {key: cold[key] for key in self.over if key in cold}
        self.stamped = {key: stamp for key, stamp in self.stamped.items() if key in self.over}
        self.renewed = {key: seq for key, seq in self.renewed.items() if seq > upto}
        self.flags = {key: flags for key, flags in self.flags.items() if key in self.over}
        self.forget_counts()


class FieldsTable(Table):
    """A structure whose entries merge field by field; a batch holds delta rows, joined in any order."""

    def absorb_own(self, seq: int, part: Part) -> None:
        self.absorb(seq, part)

    def forget(self) -> None:
        super().forget()
        self.deltas: dict[Any, list[bytes]] = {}  # not joined yet
        self.rows: dict[Any, Row] = {}  # the newest version of unfolded keys

    def row(self, key: Any) -> Row | None:
        row = self.rows.get(key)
        if row is None:
            row = self._folded_row(key)
        pending = self.deltas.pop(key, ())
        for delta in pending:
            change = merge.unpack(delta)
            row = change if row is None else merge.join(row, change)
        if row is not None and key in self.over:
            self.rows[key] = row
        return row

    def _folded_row(self, key: Any) -> Row | None:
        found = self.journal.database.rows(
            "SELECT value, stamp, node, inner FROM entry WHERE structure=? AND key=?",
            (self.id, key_to_db(key)),
        )
        if not found:
            return None
        text, stamp, node, inner = found[0]
        epoch = (stamp, self.journal.uid_of(node))
        if inner is None:
            return Row("value", epoch, text is not None, text)
        return merge.reassemble(
            self.journal.decode(text), epoch, text is not None, inner, self.journal.encode
        )

    def text(self, key: Any) -> Stored | None:
        if key not in self.over:
            return self.row_value(key)
        found = self.cold.get(key, _MISSING)
        if found is _MISSING:
            found = self.cold[key] = self.text_of(self.row(key))
        return found  # type: ignore[no-any-return]

    def text_of(self, row: Row | None) -> Stored | None:
        if row is None or not row.alive:
            return None
        if row.kind == "value":
            return row.body  # type: ignore[no-any-return]
        return self.journal.encode(merge.value(row, self.journal.decode))

    def is_live(self, key: Any) -> bool:
        return self.text(key) is not None

    def has(self, key: Any) -> bool:
        return self.text(key) is not None if key in self.over else self.has_row(key)

    def _absorb_values(self, part: Part) -> None:
        for key, delta in zip(part.keys, part.values, strict=True):
            self.deltas.setdefault(key, []).append(delta)
            self.cold.pop(key, None)

    def folded_columns(self, key: Any) -> tuple[Any, int, int, bytes | None, int]:
        text = self.text(key)
        row = self.row(key)
        assert row is not None
        stamp, uid = row.epoch
        inner = merge.stamps(row) if row.kind != "value" else None
        return text, stamp, self.journal.node_of(uid), inner, self.over[key]

    def walk_columns(
        self, rows: Iterable[tuple[int, Any]], most_bytes: int
    ) -> tuple[list[Any], list[Any], int]:
        updates: list[Any] = []
        keys: list[Any] = []
        size = last = 0
        for last, stored in rows:
            key = key_from_db(stored) if stored.__class__ is bytes else stored
            if key in self.over and key not in self.renewed:
                columns = self.folded_columns(key)
                updates.append((*columns, last))
                keys.append(key)
                size += len(columns[0] or "") + len(columns[3] or b"")
                if size > most_bytes:
                    break
        return updates, keys, last

    def settle(self, upto: int) -> None:
        super().settle(upto)
        self.rows = {key: row for key, row in self.rows.items() if key in self.over}
        self.deltas = {key: some for key, some in self.deltas.items() if key in self.over}
