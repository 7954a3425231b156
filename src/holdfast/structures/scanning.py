"""Looking over all entries of a Dict, in order, while they may change.

Rows are read a page at a time; then come the keys that are not in the rows yet, in the order in which they came, and
those that are added meanwhile. Nothing is cached: of what was given out, only that becomes hot which somebody kept.
"""

from collections.abc import Generator, Iterator
from typing import Any

from holdfast.codec import decode, key_from_db, read_json
from holdfast.structures.entries import MISSING, Entries, Page
from holdfast.structures.tracked import (
    ALONE,
    LOOSE,
    ColdDict,
    is_held_inside,
    maybe_held,
    references,
    track,
)

PAGE = 256  # rows that one step of an iteration reads
Keys = set[Any]


class Scanning(Entries):
    """Iteration over the entries."""

    __slots__ = ()

    def _scan(self, values: bool) -> Iterator[tuple[Any, Any]]:
        """All pairs in order, and those that are added meanwhile. Fills no cache."""
        table, database = self._table, self._journal.database
        columns = "id, key, seq, value" if values else "id, key, seq, NULL"
        query = (
            f"SELECT {columns} FROM entry WHERE id>=? AND id<? AND value IS NOT NULL ORDER BY id LIMIT {PAGE}"
        )
        last = table.first_id
        added: Keys = set()
        while True:
            while True:
                settled = table.settled
                rows = database.rows(query, (last, table.end_id))
                if not rows:
                    break
                last = yield from self._page(rows, added, values, settled)
            batch = self._not_in_rows(added, last)
            if not batch and not self._has_rows_after(last):
                return
            for key in batch:
                added.add(key)
                if key not in self:
                    continue
                value = self.get(key, MISSING) if values else None
                if value is not MISSING:
                    yield key, value
                value = None

    def _has_rows_after(self, last: int) -> bool:
        return bool(
            self._journal.database.value(
                "SELECT 1 FROM entry WHERE id>=? AND id<? AND value IS NOT NULL LIMIT 1",
                (last, self._table.end_id),
            )
        )

    def _not_in_rows(self, added: Keys, last: int) -> list[Any]:
        """Keys that are newer than the rows, in the order in which they came."""
        table = self._table
        with self._journal.lock:
            self._journal.check_rows_version()
            outside = self._is_outside()
            dirty, gone, moved = ({}, {}, {}) if outside else (self._dirty, self._gone, self._moved)
            stored = [
                key
                for key in list(table.over)
                if key not in added
                and (key in table.renewed or not table.has_row(key))
                and table.is_live(key)
                and key not in gone
                and key not in moved
            ]
            unsynced = [
                key
                for key in list(dirty)
                if key not in added and (key in moved or key in gone or not table.has(key))
            ]
        return list(dict.fromkeys([*stored, *unsynced]))

    def _page(
        self, rows: list[Any], added: Keys, values: bool, settled: int
    ) -> Generator[tuple[Any, Any], None, int]:
        """The pairs of some rows; where to go on reading. The rows are void once a fold is `settled` on."""
        table = self._table
        if not values:
            clean = not (table.over or self._dirty or self._gone or added)
            for identity, key, seq, _ in rows:
                if table.settled != settled:
                    return identity  # type: ignore[no-any-return]
                if key.__class__ is bytes:
                    key = key_from_db(key)
                if clean or self._is_current(key, seq, added):
                    yield key, None
                    clean = clean and not (table.over or self._dirty or self._gone)
            return identity + 1  # type: ignore[no-any-return]
        page = Page()
        self._pages = [*self._pages, page]
        pages: list[Page] = []
        others: list[Page] = []  # of iterations that are under way beside this one
        given: set[Any] = set()  # what iterations that are done have given out, and may still be held
        hot, loads, tracked = self._hot, self._loads, self._serializer.tracked
        read = read_json if loads is decode else loads
        try:
            for identity, key, seq, text in rows:
                if table.settled != settled:
                    return identity  # type: ignore[no-any-return]
                if key.__class__ is bytes:
                    key = key_from_db(key)
                if key in hot or table.over or self._dirty or self._gone or added:
                    if not self._is_current(key, seq, added):
                        continue
                    if key in hot or key in self._dirty or key in table.over:
                        value = self.get(key, MISSING)
                        if value is not MISSING:  # else somebody deleted it in this instant
                            yield key, value
                        continue
                if self._pages is not pages:
                    pages = self._pages
                    others = [one for one in pages if one is not page and not one.done]
                    given = {k for one in pages if one.done for k in one}
                if key in given or (others and any(key in other for other in others)):
                    value = self.get(key, MISSING)  # another iteration gave it out already
                    if value is not MISSING:
                        yield key, value
                    continue
                try:
                    value = read(text)
                except (ValueError, RecursionError):
                    value = loads(text)
                if tracked:
                    kind = value.__class__  # as `track` does, without the call
                    if kind is dict:
                        page[key] = value = ColdDict(value)
                        value._owner = self
                        value._key = key
                    elif kind is list:
                        page[key] = value = track(value, self, key)
                yield key, value
            return identity + 1  # type: ignore[no-any-return]
        finally:
            value = None
            self._keep_held(page)

    def _is_current(self, key: Any, seq: int, added: Keys) -> bool:
        """Whether a row says where its key stands in the order: not if it was deleted or moved since."""
        if key in added or (not self._is_outside() and (key in self._gone or key in self._moved)):
            return False
        table = self._table
        if key not in table.over:
            return True
        if not table.is_live(key):
            return False
        if key in table.renewed:
            if seq < table.renewed[key]:
                return False
            added.add(key)  # a fold that is under way has brought it to its place
        return True

    def _keep_held(self, page: "Page") -> None:
        """What an iteration gave out and somebody kept, or changed, becomes hot.

        The newest page is looked at later: the loop that runs over it still holds its last value.
        """
        with self._journal.lock:
            for earlier in self._pages:
                if earlier.done:
                    self._settle_page(earlier)
            page.done = True
            kept = {key: page[key] for key in maybe_held(page)}
            page.clear()
            page.update(kept)
            self._pages = [one for one in self._pages if one or not one.done]

    def _settle_page(self, page: "Page") -> None:
        hot = self._hot
        for key in list(page):
            node = page.pop(key)
            node_is_kept = key in self._dirty or references(node) > ALONE - 1 or is_held_inside(node)
            if node_is_kept and key not in hot and node._owner is not LOOSE and self._dirty.get(key) is None:
                hot[key] = node
