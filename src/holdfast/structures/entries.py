"""What a Dict has in memory of its entries, and how that comes to the file and back.

Where a key's newest value is, in the order in which it is looked for:

    _public  those of `_hot` that anybody may see without asking: all, or none while a transaction is open
    _hot     live objects: scalars, and the roots of tracked containers
    _dirty   what is not stored yet: the JSON text of a container that was assigned, or None where the value is the
             one in `_hot` (a scalar, or a container that was changed)
    table    what is stored: unfolded batches, then rows

`_gone` names the keys that were deleted. Marking comes after changing, and a sync takes the marks away before it
reads, so no change slips between the two. Stores that must not come apart stand together without a call in
between (see tracked.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.codec import (
    JSON,
    SCALARS,
    SCALARS_OF_STRICT_JSON,
    STRICT_JSON,
    Serializer,
    Stored,
    encode,
    plain_key,
)
from holdfast.errors import InvalidError, MissingError
from holdfast.journal.table import FieldsTable, Part, Table
from holdfast.journal.transaction import current
from holdfast.structures import fields
from holdfast.structures.tracked import (
    ALONE,
    COPIED,
    LOOSE,
    NODES,
    is_held_inside,
    loosen,
    overwrite,
    references,
    refuse_nested_key,
    track,
)

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal
    from holdfast.journal.transaction import Transaction

HOT_BYTES_A_VALUE = 200  # what a hot value takes beside its text …
HOT_BYTES_A_CHARACTER = 7  # … and per character of it, as measured on small nested records
MISSING: Any = object()
_CANONICAL: frozenset[type] = frozenset((str, int))  # keys of these types are stored as they are
_never: Iterator[None] = iter(())  # sends every change to the careful way


class Page(dict[Any, Any]):
    """The containers that one step of an iteration gave out; `done` when it went on."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False


class Entries(MutableMapping[Any, Any]):
    """The entries of one structure in the memory of one process: live, changed and deleted ones."""

    __slots__ = (
        "__weakref__",
        "_careful",
        "_cache_bytes",
        "_dirty",
        "_dumps",
        "_gone",
        "_hot",
        "_hot_bytes",
        "_is_plain_json",
        "_journal",
        "_limit",
        "_loads",
        "_moved",
        "_nested_key",
        "_pages",
        "_paused",
        "_public",
        "_refused",
        "_replaced",
        "_scalars",
        "_seen",
        "_rest",
        "_serializer",
        "_table",
        "_ticks",
        "_travels",
        "_words",
    )
    _states: ClassVar[dict[str, Any]]  # which class it has in which state; see sharing.py

    def __init__(
        self, journal: "Journal", table: Table, serializer: Serializer, sync_changes: int, cache_bytes: int
    ) -> None:
        self._journal = journal
        self._table = table
        self._words = journal.database.counter.words
        self._seen = journal.seen  # kept by the journal, and here because each shared read compares it
        self._serializer = serializer
        self._dumps = serializer.dumps
        self._loads = serializer.loads
        self._scalars = SCALARS_OF_STRICT_JSON if serializer is STRICT_JSON else SCALARS
        self._is_plain_json = serializer is JSON and not isinstance(table, FieldsTable)
        self._cache_bytes = cache_bytes
        self._limit = sync_changes
        self._nested_key: Callable[[object], str] = refuse_nested_key
        self._careful = False
        self._paused = False
        self._pages: list[Page] = []
        self._replaced: set[Any] = set()
        self._refused: InvalidError | None = None
        self._travels: tuple[Any, ...] | None = None  # how another process finds it: set by the hold
        self._clear_memory()
        table.structure = self
        self._rest = "readonly" if journal.readonly else "shared" if journal.shared else "plain"
        self._become(self._rest if journal.transaction is None else "transaction")

    def _clear_memory(self) -> None:
        self._hot: dict[Any, Any] = {}
        self._public = self._hot
        self._hot_bytes = 0
        self._dirty: dict[Any, Stored | None] = {}
        self._gone: dict[Any, None] = {}
        self._moved: dict[Any, None] = {}

    @property
    def name(self) -> str:
        """The name of this structure in its hold."""
        return self._table.name

    # -- one entry -----------------------------------------------------------------------------------------------

    def _load(self, key: Any) -> Any:
        """The value of a key that is not hot; it is hot from then on."""
        key = plain_key(key)
        journal = self._journal
        with journal.lock:
            active = journal.transaction
            if active is not None and active.touches(self, key) and current(journal) is None:
                return self._stored_copy(key)
            hot, dirty = self._hot, self._dirty
            text: Any = ""
            while key not in hot:
                text = dirty.get(key)
                if text is None and key not in self._gone:
                    text = self._table.text(key)
                if text is None:
                    raise self._no_key(key)
                value = self._visited(key) if self._pages else MISSING
                if value is MISSING:
                    value = self._loads(text)
                    if self._serializer.tracked:
                        value = track(value, self, key)
                # Another thread may have assigned meanwhile: its value is the newer one.
                if key in dirty:
                    if (dirty[key] is text or dirty[key] is None) and key not in hot:
                        hot[key] = value
                elif key not in hot:
                    hot[key] = value
            self._hot_bytes += HOT_BYTES_A_VALUE + HOT_BYTES_A_CHARACTER * len(text)
            if self._hot_bytes > self._cache_bytes:
                self._evict(key)
            return hot[key]

    def _stored_copy(self, key: Any) -> Any:
        """What a key that a transaction changes is to those outside."""
        text = self._table.text(key)
        if text is None:
            raise self._no_key(key)
        value = self._loads(text)
        return track(value, COPIED, key) if self._serializer.tracked else value

    def _visited(self, key: Any) -> Any:
        for page in self._pages:
            if key in page:
                return page.pop(key)
        return MISSING

    def _leave_pages(self, key: Any) -> None:
        """What an iteration gave out under this key is no longer its value."""
        for page in self._pages:
            if key in page:
                loosen(page.pop(key))

    def _no_key(self, key: Any) -> MissingError:
        return MissingError(f"{key!r} is not in {self.name!r}")

    def _assign(self, key: Any, value: Any) -> None:
        """Put a value in memory and mark it; raises before anything is changed."""
        if key.__class__ is not str:
            key = plain_key(key)
        scalar = value.__class__ in SCALARS
        # A plain scalar can always be stored as JSON, so there is nothing to find out by encoding it now.
        text = None if scalar and self._dumps is encode else self._text_of(key, value)
        if self._pages:
            self._leave_pages(key)
        if isinstance(self._table, FieldsTable):
            self._replaced.add(key)
        hot = self._hot
        if key in hot and hot[key].__class__ in NODES:
            loosen(hot[key])
        if scalar:
            hot[key] = value
            self._dirty[key] = None
        else:
            self._dirty[key] = text
            if key in hot:
                del hot[key]

    def _text_of(self, key: Any, value: Any) -> Any:
        try:
            return self._dumps(value)
        except InvalidError as error:
            raise InvalidError(f"{self.name}[{key!r}] was not changed: {error}") from None

    def _remove(self, key: Any) -> None:
        """Take out a key that is here."""
        if self._pages:
            self._leave_pages(key)
        node = self._hot.get(key)
        if node.__class__ in NODES:
            loosen(node)
        self._hot.pop(key, None)
        self._dirty.pop(key, None)
        self._replaced.discard(key)
        self._gone[key] = None

    # -- the cache -----------------------------------------------------------------------------------------------

    def _evict(self, wanted: Any) -> None:
        """Let go of the older half of the hot values; never of one that is changed, held or `wanted` now."""
        hot, dirty = self._hot, self._dirty
        before = len(hot)
        for key in list(hot)[: max(before // 2, 1)]:
            if key in dirty or key == wanted:
                continue
            node = hot.get(key)
            if node.__class__ in NODES and (references(node) > ALONE or is_held_inside(node)):
                continue
            if key not in dirty and key in hot:
                del hot[key]
        self._hot_bytes = self._hot_bytes * len(hot) // max(before, 1)

    # -- syncing -------------------------------------------------------------------------------------------------

    def _arm(self, changes: int) -> None:
        self._ticks: Iterator[None] = repeat(None, max(changes - 1, 0))

    def _due(self) -> None:
        """Enough changes to look whether a sync is due: it is when that many keys differ from the file."""
        if self._journal.steps_under_way:
            self._arm(
                1
            )  # a sync takes the gate, which must not be waited for with the lock held: look again after it
            return
        changed = len(self._dirty) + len(self._gone)
        self._arm(self._limit if self._paused else max(self._limit - changed, 1))
        if changed >= self._limit and not self._paused:
            self._arm(self._limit)
            self._journal.sync(every=False)

    def _count_change(self) -> None:
        try:
            next(self._ticks)
        except StopIteration:
            self._due()

    def _pending(self) -> list[Any]:
        """The keys that a sync would write; a mark made through a container that was replaced is none."""
        hot, pages = self._hot, self._pages
        return [
            key
            for key, text in list(self._dirty.items())
            if text is not None or key in hot or any(key in page for page in pages)
        ]

    def _is_dirty(self) -> bool:
        return bool(self._dirty or self._gone) and not self._paused

    def _collect(self, every: bool) -> Part | None:
        """All changes as a part of a batch, unmarked."""
        if (self._paused and not every) or not (self._dirty or self._gone):
            return None
        taken = self._dirty
        self._dirty = {}  # first unmark, then read: a later mark is never lost
        if not _CANONICAL.issuperset(map(type, taken)):
            taken = {plain_key(key): text for key, text in taken.items()}
        removed = list(self._gone)
        self._gone = {}
        self._take_visited(taken)
        keys, values = self._texts(taken)
        again = set(keys).intersection(removed) if removed else ()
        renewed = []
        if again or self._moved or self._table.renewed:
            renewed = [
                key for key in keys if key in again or key in self._moved or self._table.was_deleted(key)
            ]
            self._moved.clear()
        if isinstance(self._table, FieldsTable):
            replaced, self._replaced = self._replaced, set()
            return fields.collect(self._table, keys, values, removed, renewed, replaced)
        return Part(self._table, keys, values, [k for k in removed if k not in again], renewed, {})

    def _take_visited(self, taken: Iterable[Any]) -> None:
        """What was changed in the middle of an iteration becomes hot."""
        for page in self._pages:
            for key in taken:
                if key in page and key not in self._hot:
                    self._hot[key] = page.pop(key)

    def _texts(self, taken: Mapping[Any, Any]) -> tuple[list[Any], list[Any]]:
        hot, dumps = self._hot, self._dumps
        try:
            values = [
                text if text is not None else dumps(hot[key]) if key in hot else None
                for key, text in taken.items()
            ]
        except Exception:  # noqa: BLE001 (a serializer may raise anything; told by `_text_or_none`)
            values = [text or self._text_or_none(key) for key, text in taken.items()]
        if None in values:  # marked through a container that was replaced at the same time
            kept = [(key, value) for key, value in zip(taken, values, strict=True) if value is not None]
            return [key for key, _ in kept], [value for _, value in kept]
        return list(taken), values

    def _text_or_none(self, key: Any) -> Stored | None:
        """As it is stored; a value that came to be one that can't be is marked again, and told of."""
        if key not in self._hot:
            return None
        try:
            return self._dumps(self._hot[key])
        except Exception as error:  # noqa: BLE001 (a serializer may raise anything)
            self._dirty.setdefault(key)
            self._refused = InvalidError(
                f"{self.name}[{key!r}] was changed to what can't be stored ({error}): assign another value or delete "
                "it; what else changed was stored"
            )
            return None

    def _refusal(self) -> InvalidError | None:
        """Why a value could not be stored, told once."""
        refused, self._refused = self._refused, None
        return refused

    def _keep(self, part: Part) -> None:
        """A sync failed: what it had taken is marked again, unless it was changed anew meanwhile."""
        for key, value in zip(part.keys, part.values, strict=True):
            if isinstance(self._table, FieldsTable):
                value = fields.text_after(self._table, key, value)
                if value is None:
                    self._gone.setdefault(key)
                    continue
            if key not in self._dirty and key not in self._gone:
                self._dirty[key] = None if key in self._hot else value
        for key in part.gone:
            if key not in self._dirty:
                self._gone[key] = None

    def _is_outside(self) -> bool:
        """Whether a transaction is open that this code is not in, so that it may see only what is stored."""
        journal = self._journal
        return journal.transaction is not None and current(journal) is None

    # -- which class answers: see sharing.py ---------------------------------------------------------------------

    def _enter(self, transaction: "Transaction") -> None:
        self._become("transaction")

    def _leave(self) -> None:
        self._become(self._rest)

    def _close(self) -> None:
        self._clear_memory()
        self._become("closed")

    def _become(self, state: str) -> None:
        self._careful = state != "plain"
        # A thread may still be at the first step of a method of the class before: nothing is hot to it.
        self._public = {} if state == "transaction" else self._hot
        if self._careful:
            self._ticks = _never
        else:
            self._arm(self._limit)
        self.__class__ = self._states[state]

    # -- what the journal says -----------------------------------------------------------------------------------

    def _foreign(self, keys: Iterable[Any]) -> None:
        """Others changed these keys: what is hot of them is brought up to date or let go of."""
        hot, dirty = self._hot, self._dirty
        for key in keys:
            if self._pages and key not in dirty:
                self._show_in_pages(key)
            if key not in hot or key in dirty:
                continue  # ours is the newer one, and is written later
            node = hot[key]
            if node.__class__ in SCALARS:
                self._show_scalar(key)
            elif node.__class__ in NODES and (references(node) > ALONE or is_held_inside(node)):
                self._show(key, node)
            else:
                node = None
                del hot[key]

    def _show_scalar(self, key: Any) -> None:
        text = self._table.cold.get(key)
        value = MISSING if text is None or len(text) > 64 else self._loads(text)
        if value.__class__ in SCALARS:
            self._hot[key] = value
        else:
            del self._hot[key]

    def _show_in_pages(self, key: Any) -> None:
        for page in self._pages:
            if key in page:
                self._show(key, page[key])
                if page[key]._owner is LOOSE:
                    del page[key]

    def _show(self, key: Any, node: Any) -> None:
        """Make a held container read as what is stored."""
        text = self._table.text(key)
        if text is not None and overwrite(node, self._loads(text)):
            return
        loosen(node)
        self._hot.pop(key, None)

    def _forget(self) -> None:
        self._foreign(list(self._hot))

    def _undo(self, keys: Iterable[Any]) -> None:
        """Make these keys read as they are stored, in memory and in held references."""
        for key in keys:
            self._dirty.pop(key, None)
            self._gone.pop(key, None)
            self._moved.pop(key, None)
            self._replaced.discard(key)
            if self._pages:
                self._show_in_pages(key)
            if key in self._hot:
                node = self._hot[key]
                if node.__class__ in NODES:
                    self._show(key, node)
                else:
                    del self._hot[key]

    def _after_fork(self) -> None:
        """In a child: what the parent had not written is the parent's to write."""
        for key in [*self._dirty, *self._gone]:
            self._hot.pop(key, None)
        self._dirty.clear()
        self._gone.clear()
        self._moved.clear()
        self._replaced.clear()
        self._arm(self._limit)

    # -- changes that must not come apart ------------------------------------------------------------------------

    @contextmanager
    def _atomically(self) -> Iterator[None]:
        """Several steps as one, for the threads of this process; where shared, for all processes."""
        journal = self._journal
        with journal.lock:
            journal.steps_under_way += 1
            try:
                yield
            finally:
                journal.steps_under_way -= 1
        if len(self._dirty) + len(self._gone) >= self._limit:
            self._due()

    def _touch(self, key: Any) -> None:
        """A key is about to change (a transaction keeps account)."""

    def _change(self, node: Any, change: Callable[[], Any]) -> Any:
        """A change inside a value, where marking is not enough."""
        result = change()
        node._owner._dirty[node._key] = None
        return result

    def _combine(self, key: Any, combine: Callable[[Any, Any], Any], operand: Any) -> None:
        """`self[key] = combine(self[key], operand)` as one step."""

        def change() -> None:
            old = self[key]
            new = combine(old, operand)
            if new is not old:
                self[key] = new

        self._atomic_change((key,), change)

    def _atomic_change(self, keys: tuple[Any, ...], change: Callable[[], Any]) -> Any:
        """Run a change of one key (or, without one, of the structure) as one step, or not at all."""
        with self._atomically():
            before = [(key, self._dumps(self[key])) for key in keys if key in self]
            try:
                result = change()
            except BaseException:
                for key, text in before:
                    node = self._hot.get(key)
                    if not (node.__class__ in NODES and overwrite(node, self._loads(text))):
                        self._assign(key, self._loads(text))
                raise
        self._count_change()
        return result
