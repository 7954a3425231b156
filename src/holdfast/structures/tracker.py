"""Tracker: a Dict of tasks that knows what is done, what was tried and what is under way.

A task is a dict with `_done`, `_tries` and `_aborted` beside whatever else belongs to it. On two machines its
fields merge one by one and its tries add up; leases stay on this one.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast import clock
from holdfast.errors import ConflictError, InvalidError
from holdfast.journal.table import Part
from holdfast.journal.transaction import Transaction
from holdfast.structures.dictionary import Dict
from holdfast.structures.sharing import states_of
from holdfast.structures.tracked import plain

DEFAULTS: Mapping[str, Any] = {"_done": False, "_tries": 0, "_aborted": False}


@dataclass(slots=True)
class Task:
    """A claimed task: `value` is a copy of its fields, `until` when its lease ends (Unix seconds)."""

    key: Any
    value: dict[str, Any]
    worker: str
    until: float
    lease: str


@dataclass(frozen=True, slots=True)
class Tally:
    """How many tasks there are, and how many of them are in which state."""

    total: int = 0
    done: int = 0
    tried: int = 0
    aborted: int = 0

    def with_task(self, value: Mapping[str, Any] | None, times: int = 1) -> "Tally":
        """Count a task in (or, with times=-1, out)."""
        if value is None:
            return self
        return Tally(
            self.total + times,
            self.done + times * bool(value.get("_done")),
            self.tried + times * (value.get("_tries", 0) > 0),
            self.aborted + times * bool(value.get("_aborted")),
        )


class Tracker(Dict):
    """Tasks that are worked off in order, resume after a crash, and are retried up to `max_tries` times.

    One process walks `try_keys()`; several `claim()` tasks for a time and `finish()` them.
    """

    __slots__ = ("_expiring", "_stored_tally", "_waiting", "max_tries")

    OPTIONS: Mapping[str, Any] = {"merge": "fields", "counters": ["_tries"], "local": ["_lease"]}

    def __init__(self, *args: Any) -> None:
        self.max_tries = 0
        self._waiting: deque[Any] | None = None  # keys that may be free to claim; None: not looked yet
        self._expiring: list[tuple[float, str, Any]] = []
        self._stored_tally: tuple[int, Tally] | None = None
        super().__init__(*args)

    def _assign(self, key: Any, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise InvalidError(
                f"{self.name}[{key!r}]: a task is a dict of its fields, not a {type(value).__name__}"
            )
        super()._assign(key, {**DEFAULTS, **value})

    def __reduce_ex__(self, protocol: Any) -> Any:
        function, given = super().__reduce_ex__(protocol)
        return function, (*given, self.max_tries)

    def _collect(self, every: bool) -> Part | None:
        if self._waiting is not None:
            self._waiting.extend(self._dirty)  # a change may have made a task free again
        return super()._collect(every)

    def _foreign(self, keys: Iterable[Any]) -> None:
        keys = list(keys)
        super()._foreign(keys)
        if self._waiting is not None:
            self._waiting.extend(keys)

    def _undo(self, keys: Iterable[Any]) -> None:
        super()._undo(keys)
        self._waiting = None

    def _forget(self) -> None:
        super()._forget()
        self._waiting = None
        self._stored_tally = None

    # -- adding -----------------------------------------------------------------------------------------------

    def add(self, key: Any, value: Mapping[str, Any] | None = None) -> None:
        """Add a task. Raises ConflictError if it is there already."""
        if not self.add_if_absent(key, value):
            raise ConflictError(
                f"{key!r} is already a task of {self.name!r}: use add_if_absent() to let it be"
            )

    def add_if_absent(self, key: Any, value: Mapping[str, Any] | None = None) -> bool:
        """Add a task unless it is there; whether it was added."""
        if key in self:
            return False
        with self._atomically():
            if key in self:
                return False
            self[key] = dict(value or {})
            return True

    def add_many(self, keys: Iterable[Any]) -> None:
        """Add tasks, all or (with ConflictError) none."""
        keys = list(keys)
        with self._atomically():
            known = [key for key in keys if key in self]
            if known:
                raise ConflictError(f"{known[0]!r} is already a task of {self.name!r}: nothing was added")
            self.add_many_if_absent(keys)

    def add_many_if_absent(self, keys: Iterable[Any]) -> int:
        """Add those tasks that are not there; how many were added."""
        with self._atomically():
            return sum(self.add_if_absent(key) for key in keys)

    def update(self, *others: Any, **keywords: Any) -> None:
        """Merge dicts into the tasks that are there, and add those that are missing."""
        with self._atomically():
            for other in (*others, keywords):
                for key, fields in other.items() if isinstance(other, Mapping) else other:
                    self._update_task(key, fields)

    def _update_task(self, key: Any, fields: Mapping[str, Any]) -> None:
        if key in self:
            self._atomic_change((key,), lambda: self[key].update(fields))
        else:
            self[key] = fields

    # -- one task ---------------------------------------------------------------------------------------------

    def _set_field(self, key: Any, name: str, value: Any) -> None:
        def change() -> None:
            task = self[key]
            if task[name] != value:
                task[name] = value

        self._atomic_change((key,), change)

    def mark_done(self, key: Any) -> None:
        self._set_field(key, "_done", True)

    def mark_not_done(self, key: Any) -> None:
        self._set_field(key, "_done", False)

    def done(self, key: Any) -> bool:
        """Whether the task is there and done."""
        return key in self and bool(self[key]["_done"])

    def tries(self, key: Any) -> int:
        """How often the task was attempted."""
        return int(self[key]["_tries"])

    def increment_tries(self, key: Any) -> None:
        self._step_tries(key, 1)

    def decrement_tries(self, key: Any) -> None:
        self._step_tries(key, -1)

    def _step_tries(self, key: Any, by: int) -> None:
        def change() -> None:
            self[key]["_tries"] += by

        self._atomic_change((key,), change)

    def reset_tries(self, key: Any) -> None:
        self._set_field(key, "_tries", 0)

    def abort(self, key: Any) -> None:
        """Give the task up: it is not attempted again unless asked for."""
        self._set_field(key, "_aborted", True)

    def unabort(self, key: Any) -> None:
        self._set_field(key, "_aborted", False)

    def aborted(self, key: Any) -> bool:
        return bool(self[key]["_aborted"])

    # -- gates ------------------------------------------------------------------------------------------------

    def should_do(self, key: Any, allow_aborted: bool = False) -> bool:
        """Whether the task is not done (and not given up)."""
        return self._is_open(self[key], allow_aborted)

    def should_try(self, key: Any, allow_aborted: bool = False) -> bool:
        """As `should_do`, and it has tries left."""
        return self._may_try(self[key], allow_aborted)

    def should_do_add(self, key: Any, allow_aborted: bool = False) -> bool:
        """As `should_do`; a task that is not there is added first."""
        return self.add_if_absent(key) or self.should_do(key, allow_aborted)

    def should_try_add(self, key: Any, allow_aborted: bool = False) -> bool:
        """As `should_try`; a task that is not there is added first."""
        return self.add_if_absent(key) or self.should_try(key, allow_aborted)

    @staticmethod
    def _is_open(task: Mapping[str, Any], allow_aborted: bool) -> bool:
        return not task["_done"] and (allow_aborted or not task["_aborted"])

    def _may_try(self, task: Mapping[str, Any], allow_aborted: bool = False) -> bool:
        return self._is_open(task, allow_aborted) and (not self.max_tries or task["_tries"] < self.max_tries)

    # -- walking ----------------------------------------------------------------------------------------------

    def todo_items(self, allow_aborted: bool = False) -> Iterator[tuple[Any, Any]]:
        """Tasks that are not done, with those that are added meanwhile."""
        return ((key, task) for key, task in self.items() if self._is_open(task, allow_aborted))

    def todo_keys(self, allow_aborted: bool = False) -> Iterator[Any]:
        return (key for key, _ in self.todo_items(allow_aborted))

    def todo_values(self, allow_aborted: bool = False) -> Iterator[Any]:
        return (task for _, task in self.todo_items(allow_aborted))

    def try_items(self, allow_aborted: bool = False) -> Iterator[tuple[Any, Any]]:
        """Tasks that should be attempted; each one given counts a try."""
        for key in self:
            if self._count_try(key, allow_aborted):
                yield key, self[key]

    def _count_try(self, key: Any, allow_aborted: bool) -> bool:
        def change() -> bool:
            if key not in self or not self._may_try(self[key], allow_aborted):
                return False
            self[key]["_tries"] += 1
            return True

        return bool(self._atomic_change((key,), change))

    def try_keys(self, allow_aborted: bool = False) -> Iterator[Any]:
        return (key for key, _ in self.try_items(allow_aborted))

    def try_values(self, allow_aborted: bool = False) -> Iterator[Any]:
        return (task for _, task in self.try_items(allow_aborted))

    def aborted_items(self) -> Iterator[tuple[Any, Any]]:
        """Tasks that were given up."""
        return ((key, task) for key, task in self.items() if task["_aborted"])

    def aborted_keys(self) -> Iterator[Any]:
        return (key for key, _ in self.aborted_items())

    def aborted_values(self) -> Iterator[Any]:
        return (task for _, task in self.aborted_items())

    # -- several workers --------------------------------------------------------------------------------------

    def claim(self, worker: str, lease_seconds: float = 30.0, most: int = 1) -> list[Task]:
        """Take up to `most` waiting tasks for this worker, oldest first; [] if none waits. Counts a try each.

        A task comes back `lease_seconds` after its last `renew`, so a worker that died loses nothing. One
        transaction, whatever `most` is; safe from many processes. Raises BusyError when the writer's lock was not
        free in time: try again.
        """
        if not worker or lease_seconds <= 0 or most < 1:
            raise InvalidError("claim() needs a worker's name, a positive lease_seconds and most >= 1")
        with Transaction(self._journal):
            now = clock.now_seconds()
            claimed: list[Task] = []
            for key in self._candidates(now):
                task = self.get(key)
                if task is None or not self._may_try(task):
                    continue
                if _is_leased(task, now):
                    self._expect_back(task["_lease"]["until"], key)  # another process claimed or renewed it
                    continue
                claimed.append(self._lease(key, task, worker, now + lease_seconds))
                if len(claimed) == most:
                    break
            return claimed

    def _candidates(self, now: float) -> Iterator[Any]:
        if self._waiting is None:
            self._look_for_waiting(now)
        assert self._waiting is not None
        self._waiting.extend(self._dirty)  # what the transaction around this one added
        while self._expiring and self._expiring[0][0] <= now:
            self._waiting.append(heapq.heappop(self._expiring)[2])
        for _ in range(len(self._waiting)):
            if self._waiting:
                yield self._waiting.popleft()

    def _look_for_waiting(self, now: float) -> None:
        self._waiting = deque()
        for key, task in self.items():
            if not self._may_try(task):
                continue
            if _is_leased(task, now):
                self._expect_back(task["_lease"]["until"], key)
            else:
                self._waiting.append(key)

    def _expect_back(self, until: float, key: Any) -> None:
        heapq.heappush(self._expiring, (until, repr(key), key))

    def _lease(self, key: Any, task: Any, worker: str, until: float) -> Task:
        lease = f"{clock.new_node():x}"
        task["_tries"] += 1
        task["_lease"] = {"worker": worker, "until": until, "id": lease}
        self._expect_back(until, key)
        return Task(key, _fields(task), worker, until, lease)

    def renew(self, task: Task, lease_seconds: float = 30.0) -> None:
        """Keep a claimed task `lease_seconds` from now. Raises ConflictError if the lease was lost."""
        with Transaction(self._journal):
            stored = self._leased(task)
            task.until = clock.now_seconds() + lease_seconds
            stored["_lease"]["until"] = task.until
            self._expect_back(task.until, task.key)

    def finish(self, task: Task, **fields: Any) -> None:
        """Mark a claimed task done, with `fields` as its results, in one step.

        Raises ConflictError if the lease was lost: another worker has the task, or had it since; nothing is changed.
        """
        with Transaction(self._journal):
            stored = self._leased(task)
            stored.update(fields)
            stored["_done"] = True
            del stored["_lease"]

    def release(self, task: Task, **fields: Any) -> None:
        """Give a claimed task back before its lease ends; it waits again, its try counted."""
        with Transaction(self._journal):
            stored = self._leased(task)
            stored.update(fields)
            del stored["_lease"]

    def _leased(self, task: Task) -> Any:
        stored = self.get(task.key)
        lease = None if stored is None else stored.get("_lease")
        if lease is None or lease["id"] != task.lease or lease["until"] <= clock.now_seconds():
            raise ConflictError(
                f"the lease of {task.worker!r} on {task.key!r} was lost (it ended, or the task was finished or "
                "removed): leave the task to whoever has it now, and claim another"
            )
        return stored

    # -- progress ---------------------------------------------------------------------------------------------

    def tally(self) -> Tally:
        """All counts at once."""
        with self._journal.lock:
            stored = self._tally_stored()
            if self._is_outside():
                return stored
            for key in {*self._dirty, *self._gone}:
                stored = stored.with_task(self._stored_task(key), -1)
                stored = stored.with_task(self[key] if key not in self._gone or key in self._dirty else None)
            return stored

    def _stored_task(self, key: Any) -> Any:
        text = self._table.text(key)
        return None if text is None else self._loads(text)

    def _tally_stored(self) -> Tally:
        journal, table = self._journal, self._table
        if journal.shared and self._words[0] != journal.seen:
            journal.refresh()
        if self._stored_tally is None or self._stored_tally[0] != journal.seen:
            rows = journal.database.rows(
                "SELECT count(*), total(json_extract(value, '$._done')), total(json_extract(value, '$._tries') > 0), "
                "total(json_extract(value, '$._aborted')) FROM entry WHERE id>=? AND id<? AND value IS NOT NULL",
                (table.first_id, table.end_id),
            )
            tally = Tally(*map(int, rows[0]))
            for key in table.over:
                row = table.row_value(key)
                tally = tally.with_task(None if row is None else self._loads(row), -1)
                tally = tally.with_task(self._stored_task(key))
            self._stored_tally = (journal.seen, tally)
        return self._stored_tally[1]

    def num_done(self) -> int:
        return self.tally().done

    def num_tried(self) -> int:
        return self.tally().tried

    def num_aborted(self) -> int:
        return self.tally().aborted

    def fraction_done(self) -> float:
        """Between 0 and 1; 0 for a tracker without tasks."""
        return self._fraction(lambda tally: tally.done)

    def fraction_tried(self) -> float:
        return self._fraction(lambda tally: tally.tried)

    def fraction_aborted(self) -> float:
        return self._fraction(lambda tally: tally.aborted)

    def _fraction(self, count: Callable[[Tally], int]) -> float:
        tally = self.tally()
        return count(tally) / tally.total if tally.total else 0.0

    @staticmethod
    def percent(fraction: float, decimals: int = 2) -> str:
        """A fraction in words: '34.70 %'."""
        return f"{100 * fraction:.{decimals}f} %"

    def percent_done(self, decimals: int = 2) -> str:
        return self.percent(self.fraction_done(), decimals)

    def percent_not_done(self, decimals: int = 2) -> str:
        return self.percent(1 - self.fraction_done(), decimals)

    def percent_tried(self, decimals: int = 2) -> str:
        return self.percent(self.fraction_tried(), decimals)

    def percent_not_tried(self, decimals: int = 2) -> str:
        return self.percent(1 - self.fraction_tried(), decimals)

    def percent_aborted(self, decimals: int = 2) -> str:
        return self.percent(self.fraction_aborted(), decimals)

    def percent_not_aborted(self, decimals: int = 2) -> str:
        return self.percent(1 - self.fraction_aborted(), decimals)

    # -- showing ----------------------------------------------------------------------------------------------

    def progress(self, width: int = 30) -> str:
        """One line for a terminal: a bar and the counts."""
        tally = self.tally()
        fraction = tally.done / tally.total if tally.total else 0.0
        bar = "█" * round(width * fraction)
        return (
            f"{self.name} {bar:░<{width}} {self.percent(fraction, 1)}  {tally.done:,} of {tally.total:,} done, "
            f"{tally.tried:,} tried, {tally.aborted:,} given up"
        )

    def __rich__(self) -> Any:
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        tally = self.tally()
        counts = f"{tally.done:,} of {tally.total:,} done, {tally.tried:,} tried, {tally.aborted:,} given up"
        bar = ProgressBar(total=max(tally.total, 1), completed=tally.done, width=30)
        return Columns([Text(self.name, style="bold"), bar, Text(counts)])

    def _repr_html_(self) -> str:
        from html import escape

        tally = self.tally()
        return (
            f"<div><b>{escape(self.name)}</b> <progress max='{max(tally.total, 1)}' value='{tally.done}'></progress> "
            f"{tally.done:,} of {tally.total:,} done, {tally.tried:,} tried, {tally.aborted:,} given up</div>"
        )

    def __repr__(self) -> str:
        tally = self.tally()
        return f"<holdfast.Tracker {self.name!r}: {tally.done} of {tally.total} done>"


def _is_leased(task: Mapping[str, Any], now: float) -> bool:
    lease = task.get("_lease")
    return lease is not None and lease["until"] > now


def _fields(task: Any) -> dict[str, Any]:
    return {name: value for name, value in plain(task).items() if name != "_lease"}


Tracker._states = states_of(Tracker)
