"""A Tracker does what a small model of it does: one live lease a task, tries counted, all of it kept.

Time stands still unless a step moves it.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.property.test_dict_model import SMALL, Undo, fresh

import holdfast
from holdfast import clock

MAX_TRIES = 3
keys = st.sampled_from(["a", "b", "c", 1, None, ("x", 1)])
extras = st.dictionaries(st.sampled_from(["url", "n"]), st.integers(0, 3) | st.just([1]), max_size=2)


class TrackerMachine(RuleBasedStateMachine):
    """One tracker, used by several workers of one process."""

    OPEN: dict[str, Any] = {}

    def __init__(self) -> None:
        super().__init__()
        self.before = {where: getattr(*where) for where in SMALL}
        for (module, name), value in SMALL.items():
            setattr(module, name, value)
        self.real_now = clock.now_seconds
        self.now = 1_800_000_000.0
        clock.now_seconds = lambda: self.now
        self.place = Path(tempfile.mkdtemp(prefix="holdfast-model-"))
        self.tasks: dict[Any, dict[str, Any]] = {}
        self.leases: dict[Any, tuple[str, float]] = {}  # key -> lease, until
        self.claimed: list[Any] = []
        self.transaction: Any = None

    @initialize()
    def open(self) -> None:
        self.hold = holdfast.open(self.place / "t.hold", sync_seconds=None, **self.OPEN)
        self.t = self.hold.tracker("t", max_tries=MAX_TRIES)

    def teardown(self) -> None:
        try:
            if hasattr(self, "hold"):
                self.finish_all()
        finally:
            clock.now_seconds = self.real_now
            for (module, name), value in self.before.items():
                setattr(module, name, value)
            shutil.rmtree(self.place)

    def finish_all(self) -> None:
        try:
            if self.transaction is not None:
                self.commit()
            self.agrees()
            self.reopen()
            self.agrees()
            self.counts()
            assert self.hold.check() == []
        finally:
            self.hold.close()

    def may_try(self, key: Any) -> bool:
        task = self.tasks[key]
        return not task["_done"] and not task["_aborted"] and task["_tries"] < MAX_TRIES

    def leased(self, key: Any) -> bool:
        return key in self.leases and self.leases[key][1] > self.now

    @rule(key=keys, extra=extras)
    def add(self, key: Any, extra: dict[str, Any]) -> None:
        if key in self.tasks:
            with pytest.raises(holdfast.ConflictError):
                self.t.add(key, extra)
            assert not self.t.add_if_absent(key, extra)
        else:
            self.t.add(key, extra)
            self.tasks[key] = {"_done": False, "_tries": 0, "_aborted": False, **fresh(extra)}

    @rule(some=st.lists(keys, max_size=4))
    def add_many(self, some: list[Any]) -> None:
        new = list(dict.fromkeys(key for key in some if key not in self.tasks))
        assert self.t.add_many_if_absent(some) == len(new)
        self.tasks.update((key, {"_done": False, "_tries": 0, "_aborted": False}) for key in new)

    @rule(key=keys, extra=extras)
    def update(self, key: Any, extra: dict[str, Any]) -> None:
        self.t.update({key: extra})
        if key in self.tasks:
            self.tasks[key].update(fresh(extra))
        else:
            self.tasks[key] = {"_done": False, "_tries": 0, "_aborted": False, **fresh(extra)}

    @rule(key=keys, extra=extras)
    def replace(self, key: Any, extra: dict[str, Any]) -> None:
        self.t[key] = extra
        self.tasks[key] = {"_done": False, "_tries": 0, "_aborted": False, **fresh(extra)}
        if self.t[key].get("_lease") is None:
            self.leases.pop(key, None)

    @rule(key=keys)
    def refuse(self, key: Any) -> None:
        with pytest.raises(holdfast.InvalidError):
            self.t[key] = 5

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        if key in self.tasks:
            del self.t[key]
            del self.tasks[key]
            self.leases.pop(key, None)

    @rule(key=keys, what=st.sampled_from(["done", "not_done", "abort", "unabort", "+", "-", "0", "inside"]))
    def change(self, key: Any, what: str) -> None:
        if key not in self.tasks:
            return
        task = self.tasks[key]
        if what in ("done", "not_done"):
            (self.t.mark_done if what == "done" else self.t.mark_not_done)(key)
            task["_done"] = what == "done"
        elif what in ("abort", "unabort"):
            (self.t.abort if what == "abort" else self.t.unabort)(key)
            task["_aborted"] = what == "abort"
        elif what == "inside":
            self.t[key]["log"] = [1]
            self.t[key]["log"].append(task["_tries"])
            task["log"] = [1, task["_tries"]]
        else:
            {"+": self.t.increment_tries, "-": self.t.decrement_tries, "0": self.t.reset_tries}[what](key)
            task["_tries"] = {"+": task["_tries"] + 1, "-": task["_tries"] - 1, "0": 0}[what]

    @rule(worker=st.sampled_from(["w1", "w2"]), seconds=st.sampled_from([5.0, 30.0]), most=st.integers(1, 3))
    def claim(self, worker: str, seconds: float, most: int) -> None:
        free = [key for key in self.tasks if self.may_try(key) and not self.leased(key)]
        got = self.t.claim(worker, seconds, most)
        assert len({task.key for task in got}) == len(got) == min(most, len(free)), f"{got} of {free}"
        for task in got:
            assert task.key in free
            self.tasks[task.key]["_tries"] += 1
            assert task.value == self.tasks[task.key]
            assert task.until == self.now + seconds
            self.leases[task.key] = (task.lease, task.until)
        self.claimed = [*self.claimed[-6:], *got]

    def holds(self, task: Any) -> bool:
        return self.leases.get(task.key, ("", 0))[0] == task.lease and self.leased(task.key)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), what=st.sampled_from(["finish", "renew", "release"]), extra=extras)
    def go_on(self, data: st.DataObject, what: str, extra: dict[str, Any]) -> None:
        task = data.draw(st.sampled_from(self.claimed))
        if not self.holds(task):
            with pytest.raises(holdfast.ConflictError):
                getattr(self.t, what)(task)
            return
        if what == "renew":
            self.t.renew(task, 20.0)
            self.leases[task.key] = (task.lease, self.now + 20.0)
            return
        getattr(self.t, what)(task, **extra)
        del self.leases[task.key]
        self.tasks[task.key].update(fresh(extra))
        if what == "finish":
            self.tasks[task.key]["_done"] = True

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0, 31.0]))
    def later(self, seconds: float) -> None:
        self.now += seconds

    @rule(most=st.integers(0, 4))
    def walk(self, most: int) -> None:
        wanted = [key for key in self.tasks if self.may_try(key)][:most]
        got = []
        walker = self.t.try_keys()
        for _ in wanted:
            got.append(next(walker))
            self.tasks[got[-1]]["_tries"] += 1
        assert got == wanted
        walker.close()

    @rule()
    def agrees(self) -> None:
        assert list(self.t) == list(self.tasks)
        for key, task in self.tasks.items():
            found = self.t[key]
            assert {name: value for name, value in found.items() if name != "_lease"} == task
            assert (key in self.leases) == ("_lease" in found)
            assert self.t.should_try(key) == self.may_try(key)
            assert self.t.should_do(key) == (not task["_done"] and not task["_aborted"])
            assert self.t.done(key) == task["_done"] and self.t.tries(key) == task["_tries"]
        assert list(self.t.todo_keys()) == [
            k for k, v in self.tasks.items() if not v["_done"] and not v["_aborted"]
        ]
        assert list(self.t.aborted_keys()) == [k for k, v in self.tasks.items() if v["_aborted"]]

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "t"):
            return
        tally = self.t.tally()
        assert tally.total == len(self.t) == len(self.tasks)
        assert tally.done == sum(task["_done"] for task in self.tasks.values())
        assert tally.tried == sum(task["_tries"] > 0 for task in self.tasks.values())
        assert tally.aborted == sum(task["_aborted"] for task in self.tasks.values())

    @rule()
    def sync(self) -> None:
        self.hold.sync()

    @precondition(lambda self: self.transaction is None)
    @rule()
    def fold(self) -> None:
        self.hold.fold()

    @precondition(lambda self: self.transaction is None)
    @rule()
    def reopen(self) -> None:
        self.hold.close()
        self.open()

    @precondition(lambda self: self.transaction is None)
    @rule()
    def begin(self) -> None:
        self.transaction = self.hold.transaction()
        self.transaction.__enter__()
        self.kept = ({key: fresh(task) for key, task in self.tasks.items()}, dict(self.leases))

    def commit(self) -> None:
        transaction, self.transaction = self.transaction, None
        transaction.__exit__(None, None, None)

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def end(self) -> None:
        self.commit()

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def roll_back(self) -> None:
        transaction, self.transaction = self.transaction, None
        transaction.__exit__(Undo, Undo(), None)
        self.tasks, self.leases = self.kept


class SharedTrackerMachine(TrackerMachine):
    OPEN = {"shared": True}


class EagerTrackerMachine(TrackerMachine):
    OPEN = {"sync_changes": 2, "cache_bytes": 500}


for machine in (TrackerMachine, SharedTrackerMachine, EagerTrackerMachine):
    case = machine.TestCase
    case.settings = settings(stateful_step_count=30, report_multiple_bugs=False)
    globals()[f"Test{machine.__name__}"] = case
