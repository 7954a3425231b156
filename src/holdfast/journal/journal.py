"""The journal of one hold in one process: batches are appended here, and everything else is read from them.

The law: a batch is appended only under the writer's gate and after all earlier batches were read; `seen` is the
last batch that this process has taken in; every change of journal or table state happens under `lock`
(gate before lock, never the other way round).
"""

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from holdfast import clock
from holdfast.codec import Stored, decode, encode, key_from_db, key_to_db, keys_to_db
from holdfast.engine import process
from holdfast.engine.connection import Database
from holdfast.errors import ClosedError, ConflictError, InvalidError, ReadOnlyError
from holdfast.journal.fold import Folder
from holdfast.journal.identity import adopt_identity, mark_closed, mark_open
from holdfast.journal.table import EPHEMERAL, FieldsTable, Part, Structure, Table
from holdfast.journal.transaction import Transaction, current

log = logging.getLogger("holdfast")
_pack = msgspec.msgpack.Encoder().encode
_INSERT_BATCH = "INSERT INTO batch VALUES(?,?,?,?,?)"
_unpack = msgspec.msgpack.Decoder().decode
ROWS_VERSION = 4  # a word of the counter file
BEFORE_FORK_SECONDS = 1.0  # how long a fork waits for another writer
CATCH_UP_EACH = 256  # batches read between two looks at what others folded
HEAD = 4  # what the head of a part has, if the keys say all that there is to know before a value is read
HERE = 0  # the source of batches that were made here


class Journal:
    """All state that the handles and structures of one open hold share in this process."""

    def __init__(self, database: Database, shared: bool, had_wal: bool) -> None:
        self.database = database
        self.path = database.path
        self.shared = shared
        self.readonly = database.readonly
        self._had_wal = had_wal
        self.lock = threading.RLock()
        self.tables: dict[str, Table] = {}
        self.tables_by_id: dict[int, Table] = {}
        self.stamps: dict[int, tuple[int, int]] = {}
        self.seen = self.folded = 0
        self.transaction: Transaction | None = None
        self.user_locks = 0  # how often the thread in the gate locked it by hand
        self.steps_under_way = 0  # changes of several steps, inside `lock`
        self.writer: int | None = None  # the thread that is inside an atomic change
        self.closed = False
        self.decode: Callable[[Any], Any] = decode
        self.encode: Callable[[Any], str] = encode
        self.folder = Folder(self)
        self._uids: dict[int, int] = {}
        self._nodes: dict[int, int] = {}
        self._rows_version = 0
        self.is_marked_open = False
        self.clock = clock.HybridClock()
        self._start()

    def _start(self) -> None:
        if self.readonly:
            self.here = 0
            self._load()
            return
        gate, owner = self.database.gate, threading.get_ident()
        gate.acquire(owner)
        try:
            self.here = adopt_identity(self, self._had_wal)
            self._load()
            self.database.counter.words[0] = self.seen  # a kill between store and COMMIT leaves it ahead
            if self.database.alone and gate.presence():  # nobody came between opening and the gate
                self._forget_ephemeral()
        finally:
            gate.release(owner)
        process.register(self)

    # -- what is in the file ----------------------------------------------------------------------------------

    def _load(self) -> None:
        with self.lock:
            self.folded = self.database.value("SELECT value FROM meta WHERE key='folded'") or 0
            self.clock.observe(self.database.value("SELECT value FROM meta WHERE key='clock'") or 0)
            self.seen = max(self.folded, self.database.value("SELECT max(seq) FROM batch") or 0)
            self._load_unfolded()
            self._saw(self.seen)

    def _load_unfolded(self) -> None:
        """Take in which keys the unfolded batches change; their values are read when they are wanted."""
        rows = self.database.rows(
            "SELECT seq, source, stamp, keys FROM batch WHERE seq>? AND seq<=? ORDER BY seq",
            (self.folded, self.seen),
        )
        for seq, source, stamp, keys in rows:
            self._note_stamp(seq, source, stamp)
            heads = _unpack(keys)
            if (
                any(isinstance(self.table_of(head[0]), FieldsTable) for head in heads)
                or source != HERE
                or any(len(head) > HEAD for head in heads)
            ):
                self._absorb(seq, keys, self.database.value("SELECT changes FROM batch WHERE seq=?", (seq,)))
                continue
            for identity, changed, gone, renewed in heads:
                self.table_of(identity).absorb_keys(seq, *map(_keys, (changed, gone, renewed)))

    def _note_stamp(self, seq: int, source: int, stamp: int) -> None:
        self.stamps[seq] = (stamp, self.here)
        self.clock.observe(stamp)

    def load_values(self, seq: int) -> bool:
        """Read the values of one unfolded batch; False if the batch is no longer there."""
        with self.lock:
            rows = self.database.rows("SELECT keys, changes FROM batch WHERE seq=?", (seq,))
            if not rows:
                return False
            for part in self._parts(*rows[0]):
                if isinstance(part.table, FieldsTable):
                    continue  # its values are changes, and were taken in with their keys
                over, cold = part.table.over, part.table.cold
                for key, value in zip(part.keys, part.values, strict=not part.meta.get("rows")):
                    if over.get(key) == seq and key not in cold:
                        cold[key] = value
            return True

    def _parts(self, keys: bytes, changes: bytes) -> Iterator[Part]:
        for (identity, changed, gone, renewed, *_), (values, meta) in zip(
            _unpack(keys), _unpack(changes), strict=True
        ):
            yield Part(
                self.table_of(identity), _keys(changed), values, _keys(gone), _keys(renewed), meta or {}
            )

    def _absorb(self, seq: int, keys: bytes, changes: bytes) -> list[Part]:
        parts = list(self._parts(keys, changes))
        for part in parts:
            part.table.absorb(seq, part)
        return parts

    def refresh(self) -> None:
        """Take in the batches that other processes appended."""
        with self.lock:
            if self.closed:
                raise ClosedError(f"{self.path!r} is closed: open it again with holdfast.open()")
            rows = self.database.rows(
                "SELECT seq, source, stamp, keys, changes FROM batch WHERE seq>? ORDER BY seq", (self.seen,)
            )
            if not rows:
                return
            if rows[0][0] != self.seen + 1:
                self.reload()
                return
            for seq, _, stamp, keys, changes in rows:
                self.stamps[seq] = (stamp, self.here)
                if not self._absorb_one(seq, keys, changes):
                    parts = self._absorb(seq, keys, changes)
                    for part in parts:
                        if part.table.structure is not None:
                            part.table.structure._foreign((*part.gone, *part.keys))
                self.seen = seq
                if seq % CATCH_UP_EACH == 0:
                    self.folder.catch_up()
            self._saw(self.seen)
            self.clock.observe(rows[-1][2])

    def _saw(self, seq: int) -> None:
        """All batches up to `seq` are taken in; each structure has the number at hand for its reads."""
        self.seen = seq
        for table in self.tables_by_id.values():
            if table.structure is not None:
                table.structure._seen = seq

    def _absorb_one(self, seq: int, keys: bytes, changes: bytes) -> bool:
        """As `_absorb`, for what `append_one` wrote; False if the batch is of another shape."""
        heads = _unpack(keys)
        if len(heads) != 1 or len(heads[0]) != HEAD:
            return False
        identity, changed, gone, renewed = heads[0]
        table = self.tables_by_id.get(identity)
        if len(changed) != 1 or gone or renewed or table is None or isinstance(table, FieldsTable):
            return False
        key = changed[0] if changed[0].__class__ is str else key_from_db(changed[0])
        table.absorb_one(seq, key, _unpack(changes)[0][0][0])
        if table.structure is not None:
            table.structure._foreign((key,))
        return True

    def reload(self) -> None:
        """Forget all that is not ours alone: what we missed is no longer kept as batches."""
        with self.lock:
            self.stamps.clear()
            for table in self.tables_by_id.values():
                table.forget()
            self._load()
            for structure in self.structures():
                structure._forget()

    def rows_changed(self) -> None:
        """A fold changed rows: counts that any process keeps of them are void."""
        words = self.database.counter.words
        words[ROWS_VERSION] += 1  # under the gate, so nobody else counts at the same time

    def check_rows_version(self) -> None:
        """Forget what was counted of the rows, if a fold changed them."""
        version = self.database.counter.words[ROWS_VERSION]
        if version != self._rows_version:
            self._rows_version = version
            for table in self.tables_by_id.values():
                table.forget_counts()

    # -- structures -------------------------------------------------------------------------------------------

    def table(self, name: str, kind: str, options: dict[str, Any], create: bool = True) -> Table:
        """The structure of that name, made if missing; InvalidError if it is stored as something else."""
        table = self.find_table(name)
        if table is None:
            if not create or self.readonly:
                raise InvalidError(
                    f"there is no structure {name!r} in {self.path!r}"
                    + (", which is open read-only" if self.readonly else "")
                )
            with self.writing():
                table = self.find_table(name) or self._create(name, kind, options)
        if table.kind != kind:
            raise InvalidError(
                f"{name!r} in {self.path!r} is a {table.kind}, not a {kind}: use hold.{table.kind}({name!r})"
            )
        return table

    def find_table(self, name: str) -> Table | None:
        table = self.tables.get(name)
        if table is None:
            rows = self.database.rows("SELECT id, name, kind, options FROM structure WHERE name=?", (name,))
            table = self._known(*rows[0]) if rows else None
        return table

    def table_of(self, identity: int) -> Table:
        table = self.tables_by_id.get(identity)
        if table is None:
            rows = self.database.rows("SELECT id, name, kind, options FROM structure WHERE id=?", (identity,))
            if not rows:  # dropped, while a batch of it is still kept
                return Table(self, identity, f"dropped-{identity}", "dropped", {})
            table = self._known(*rows[0])
        return table

    def _create(self, name: str, kind: str, options: dict[str, Any]) -> Table:
        self.database.run(
            "INSERT INTO structure(name, kind, options) VALUES(?,?,?)", (name, kind, json.dumps(options))
        )
        if options.get("ephemeral"):
            self.database.run("INSERT OR REPLACE INTO meta(key, value) VALUES('ephemeral', 1)")
        found = self.find_table(name)
        assert found is not None
        return found

    def _known(self, identity: int, name: str, kind: str, options: str) -> Table:
        with self.lock:
            known = self.tables_by_id.get(identity)
            if known is not None:
                return known
            stored = json.loads(options)
            by_fields = stored.get("merge") == "fields"
            table = (FieldsTable if by_fields else Table)(self, identity, name, kind, stored)
            self.tables[name] = self.tables_by_id[identity] = table
            return table

    def all_tables(self) -> list[Table]:
        """Every structure of the file, in the order in which they were made."""
        rows = self.database.rows("SELECT id, name, kind, options FROM structure ORDER BY id")
        return [self._known(*row) for row in rows]

    def structures(self) -> list[Structure]:
        return [t.structure for t in list(self.tables_by_id.values()) if t.structure is not None]

    def key_of(self, row: tuple[Any, ...]) -> Any:
        """The key in the first column of a row."""
        stored = row[0]
        return key_from_db(stored) if stored.__class__ is bytes else stored

    # -- nodes ------------------------------------------------------------------------------------------------

    def uid_of(self, node: int) -> int:
        """The id, unique in the world, of a node of this file."""
        if node not in self._uids:
            self._load_nodes()
        return self._uids[node]

    def node_of(self, uid: int) -> int:
        """This file's number for a node, given if it has none yet (under the gate)."""
        if uid not in self._nodes:
            self._load_nodes()
        if uid not in self._nodes:
            self.database.run("INSERT INTO node(uid) VALUES(?)", (uid,))
            self._load_nodes()
        return self._nodes[uid]

    def _load_nodes(self) -> None:
        self._uids = {0: 0, **dict(self.database.rows("SELECT id, uid FROM node"))}
        self._nodes = {uid: node for node, uid in self._uids.items()}

    # -- writing ----------------------------------------------------------------------------------------------

    def me(self) -> object:
        """Who asks for the gate: the transaction that this code runs in, else this thread."""
        active = current(self)
        return threading.get_ident() if active is None else active.owner

    def _refuse_deadlock(self, owner: object) -> None:
        active = self.transaction
        if active is not None and active.owner != owner and active.thread == threading.get_ident():
            raise ConflictError(
                f"another task of this thread has a transaction on {self.path!r} open, and waiting for it here "
                "would block it: write inside `async with hold.transaction()` too"
            )

    def writing(self, wait_seconds: float | None = None) -> "Writing":
        """`with journal.writing():` the writer's gate, with all that others wrote taken in. Re-entrant."""
        return Writing(self, wait_seconds)

    def is_writing(self) -> bool:
        """Whether this code runs inside an atomic change, so that its own changes just join it."""
        return self.writer == threading.get_ident() or current(self) is not None

    def lock_writers(self, wait_seconds: float | None = None) -> None:
        """Keep other writers out until `unlock_writers`, counted."""
        self._refuse_unwritable()
        self.database.gate.acquire(self.me(), wait_seconds)
        self.user_locks += 1
        self.catch_up()

    def unlock_writers(self) -> None:
        gate = self.database.gate
        if not gate.held_by(self.me()):
            raise InvalidError(f"{self.path!r} is not locked by this thread, so there is nothing to unlock")
        if not self.shared:
            self.sync()
        self.user_locks -= 1
        gate.release(self.me())
        process.release_deferred()

    def _refuse_unwritable(self) -> None:
        if self.closed:
            raise ClosedError(f"{self.path!r} is closed: open it again with holdfast.open()")
        if self.readonly:
            raise ReadOnlyError(
                f"{self.path!r} is open read-only: open it without readonly=True to change it"
            )

    def catch_up(self) -> None:
        """Take in what others wrote, if they did. Under the gate, so the counter is set right as well."""
        words = self.database.counter.words
        if words[0] != self.seen:
            self.refresh()
            words[0] = self.seen

    def append(self, parts: list[Part], source: int = HERE) -> int:
        """Write one batch: all of it or, with the error, nothing. Under the gate, caught up."""
        if not self.is_marked_open and not self.database.in_transaction:
            mark_open(self)
        keys = _pack([_head(part) for part in parts])
        changes = _pack([(p.values, p.meta or None) for p in parts])
        with self.lock:
            seq = self.seen + 1
            stamp = self.clock.tick()
            counter = self.database.counter
            counter.words[0] = seq  # before COMMIT, so that no acknowledged change is ever missed
            try:
                self.database.run(_INSERT_BATCH, (seq, source, stamp, keys, changes))
            except BaseException:
                counter.words[0] = self.seen
                raise
            self._saw(seq)
            self.stamps[seq] = (stamp, self.here)
            for part in parts:
                part.table.absorb_own(seq, part)
            counter.landed(seq)
        self.folder.note(len(keys) + len(changes))
        return seq

    def append_one(self, table: Table, key: Any, text: Stored) -> None:
        """As `append`, for one assignment in one structure of whole values: what a shared hold does all day."""
        if not self.is_marked_open:
            mark_open(self)
        db_key = key if key.__class__ is str and key.isascii() else key_to_db(key)
        keys = _pack(((table.id, (db_key,), (), (db_key,) if table.was_deleted(key) else ()),))
        changes = _pack((((text,), None),))
        with self.lock:
            seq = self.seen + 1
            stamp = self.clock.tick()
            counter = self.database.counter
            counter.words[0] = seq
            try:
                self.database.run(_INSERT_BATCH, (seq, HERE, stamp, keys, changes))
            except BaseException:
                counter.words[0] = self.seen
                raise
            self._saw(seq)
            self.stamps[seq] = (stamp, self.here)
            table.absorb_one(seq, key, text)
            counter.landed(seq)
        self.folder.bytes += len(keys) + len(changes)

    def sync(self, every: bool = True, wait_seconds: float | None = None) -> None:
        """Bring what changed in memory to the file. `every`: what is paused, too."""
        if self.readonly or self.closed:
            return
        if self.is_writing():
            return  # the transaction writes it, whole, when it ends
        with self.writing(wait_seconds):
            self._write_dirty(every)
            self.folder.fold_if_due()

    def _write_dirty(self, every: bool) -> None:
        with self.lock:
            structures = self.structures()
            collected = [(s, part) for s in structures if (part := s._collect(every)) is not None]
            refused = next(filter(None, [structure._refusal() for structure in structures]), None)
            try:
                if refused is not None and self.transaction is not None:
                    raise refused
                if collected:
                    self.append([part for _, part in collected])
            except BaseException:
                for structure, part in collected:
                    structure._keep(part)
                raise
        if refused is not None:
            raise refused

    def is_dirty(self) -> bool:
        return any(structure._is_dirty() for structure in self.structures())

    # -- transactions -----------------------------------------------------------------------------------------

    def begin(self, transaction: Transaction, wait_seconds: float | None) -> None:
        """Start a transaction: the gate is held until it ends, and what was dirty before is written first."""
        self._refuse_unwritable()
        self._refuse_deadlock(transaction)
        gate = self.database.gate
        if gate.held_by(threading.get_ident()):
            transaction.owner = threading.get_ident()  # inside this thread's own lock()
        gate.acquire(transaction.owner, wait_seconds)
        try:
            self.catch_up()
            with self.lock:
                self.transaction = transaction
                for structure in self.structures():
                    structure._enter(transaction)
                self._write_dirty(every=True)
        except BaseException:
            self._end(transaction)
            raise

    def commit(self, transaction: Transaction) -> None:
        try:
            with self.lock:
                self._write_dirty(every=True)
        except BaseException:
            self.undo(transaction)
            raise
        finally:
            self._end(transaction)
        if self.folder.is_due():
            with self.writing():
                self.folder.fold_if_due()

    def rollback(self, transaction: Transaction) -> None:
        try:
            self.undo(transaction)
        finally:
            self._end(transaction)

    def undo(self, transaction: Transaction) -> None:
        with self.lock:
            for structure, keys in transaction.touched.values():
                structure._undo(keys)
            transaction.touched.clear()

    def _end(self, transaction: Transaction) -> None:
        with self.lock:
            self.transaction = None
            for structure in self.structures():
                structure._leave()
        self.database.gate.release(transaction.owner)
        process.release_deferred()

    # -- ephemeral --------------------------------------------------------------------------------------------

    def _forget_ephemeral(self) -> None:
        """Nobody else has the hold open, so this is a restart: what was marked ephemeral goes."""
        if not self.database.value("SELECT value FROM meta WHERE key='ephemeral'"):
            return
        self.folder.fold_all()
        self.database.run("DELETE FROM entry WHERE flags & ?", (EPHEMERAL,))
        for table in self.all_tables():
            fields = table.options.get("ephemeral")
            if isinstance(table, FieldsTable) and isinstance(fields, list):
                self.folder.strip_fields(table, frozenset(fields))

    def remember_ephemeral(self) -> None:
        self.database.run("INSERT OR REPLACE INTO meta(key, value) VALUES('ephemeral', 1)")

    # -- the process's life -----------------------------------------------------------------------------------

    def busy(self) -> bool:
        """Whether this thread is in the middle of a write, so that a signal must wait; just locking is none."""
        gate = self.database.gate
        return gate.held_by(threading.get_ident()) and gate.depth > self.user_locks

    def before_fork(self) -> None:
        """What is in memory goes to the file, so that the child starts with it."""
        if self.is_dirty() and self.transaction is None:
            try:
                self.sync(every=False, wait_seconds=BEFORE_FORK_SECONDS)
            except Exception:
                log.exception(
                    "could not sync %r before a fork; the child does not see the last changes", self.path
                )

    def after_fork_child(self) -> None:
        self.lock = threading.RLock()
        self.clock.reset_after_fork()
        self.steps_under_way = self.user_locks = 0
        self.writer = None
        if self.transaction is not None:
            self.transaction.orphaned = True
            self.transaction = None
            for structure in self.structures():
                structure._leave()
        for structure in self.structures():
            structure._after_fork()

    def at_exit(self) -> None:
        if not self.closed:
            self.sync()

    def close(self) -> None:
        """Write what is left, fold if nobody else has the hold open, and let go of the file."""
        if self.closed:
            return
        last = False
        try:
            if not self.readonly:
                self.sync()
                with self.writing():
                    last = self.database.gate.presence()
                    if last:
                        self.folder.fold_all()
                        mark_closed(self)
        finally:
            self.closed = True
            for structure in self.structures():
                structure._close()
            process.forget(self)
            self.database.close(last)


def _head(part: Part) -> tuple[Any, ...]:
    """What a batch says of its keys in one structure; with a sign at the end if `changes` must be read as well."""
    head = (part.table.id, keys_to_db(part.keys), keys_to_db(part.gone), keys_to_db(part.renewed))
    return (*head, True) if part.meta else head


class Writing:
    """The time in which one owner may write. A class, since a generator would cost more than the rest of it."""

    __slots__ = ("_journal", "_owner", "_wait_seconds")

    def __init__(self, journal: Journal, wait_seconds: float | None) -> None:
        self._journal = journal
        self._wait_seconds = wait_seconds

    def __enter__(self) -> None:
        journal = self._journal
        if journal.closed or journal.readonly:
            journal._refuse_unwritable()
        self._owner = owner = journal.me()
        if journal.transaction is not None:
            journal._refuse_deadlock(owner)
        journal.database.gate.acquire(owner, self._wait_seconds)
        try:
            if journal.database.counter.words[0] != journal.seen:
                journal.catch_up()
        except BaseException:
            journal.database.gate.release(owner)
            raise

    def __exit__(self, *error: object) -> None:
        self._journal.database.gate.release(self._owner)
        process.release_deferred()


def _keys(stored: Iterable[Any]) -> list[Any]:
    return [key_from_db(k) if k.__class__ is bytes else k for k in stored]
