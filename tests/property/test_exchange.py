"""Holds that tell each other their changes, in any order, late, twice or by way of a third, come to be the same.

All clocks are one that a step moves, so that "the last writer wins" says who that is.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.property.test_dict_model import SMALL, fresh

import holdfast
from holdfast import clock
from holdfast.journal.exchange import Changes

SECRET = "SECRET"
KEYS = ["a", "b", 1, ("x", None), "\ud800", 0.5]
keys = st.sampled_from(KEYS)
values = st.sampled_from(
    [None, 1, "text", [1, [2]], {"f": 1}, {"f": {"deep": 1}, "g": [0]}, {"g": 2, "h": None}, {}]
)
which = st.integers(0, 2)


class ExchangeMachine(RuleBasedStateMachine):
    """Three files, and everything that one of them ever said, on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.before = {where: getattr(*where) for where in SMALL}
        for (module, name), value in SMALL.items():
            setattr(module, name, value)
        self.real_now, self.now = clock.now_ms, 1_800_000_000_000
        clock.now_ms = lambda: self.now
        self.place = Path(tempfile.mkdtemp(prefix="holdfast-model-"))
        self.holds: list[Any] = [None] * 3
        self.cursors = {(i, j): 0 for i in range(3) for j in range(3)}
        self.on_the_way: list[bytes] = []
        self.last: dict[Any, Any] = {}  # of `values`: who wrote last, wins
        self.tries: dict[str, int] = {}

    @initialize(shared=st.lists(st.booleans(), min_size=3, max_size=3))
    def open_all(self, shared: list[bool]) -> None:
        self.shared = shared
        for i in range(3):
            self.open(i)

    def open(self, i: int) -> None:
        hold = holdfast.open(self.place / f"{i}.hold", sync_seconds=None, shared=self.shared[i])
        hold.dict("values")
        hold.dict("fields", merge="fields", local=["private"])
        hold.dict("bytes", serializer="bytes")
        hold.dict("here", local=True)
        hold.tracker("tasks")
        self.holds[i] = hold

    def teardown(self) -> None:
        try:
            if self.holds[0] is not None:
                self.settle()
        finally:
            for hold in self.holds:
                if hold is not None:
                    hold.close()
            clock.now_ms = self.real_now
            for (module, name), value in self.before.items():
                setattr(module, name, value)
            shutil.rmtree(self.place)

    def tick(self) -> None:
        self.now += 1

    # -- changes ----------------------------------------------------------------------------------------------

    @rule(i=which, key=keys, value=values)
    def set(self, i: int, key: Any, value: Any) -> None:
        self.tick()
        self.holds[i].dict("values")[key] = value
        self.holds[i].sync()
        self.last[key] = fresh(value)

    @rule(i=which, key=keys)
    def delete(self, i: int, key: Any) -> None:
        self.tick()
        if self.holds[i].dict("values").pop(key, self) is not self:
            self.holds[i].sync()
            self.last.pop(key, None)

    @rule(i=which, key=keys, value=values)
    def set_fields(self, i: int, key: Any, value: Any) -> None:
        self.tick()
        self.holds[i].dict("fields")[key] = value

    @rule(i=which, key=keys, name=st.sampled_from(["f", "g", "n"]), value=values)
    def change_field(self, i: int, key: Any, name: str, value: Any) -> None:
        self.tick()
        found = self.holds[i].dict("fields").get(key)
        if isinstance(found, dict):
            found[name] = value
        self.holds[i].sync()

    @rule(i=which, key=keys)
    def delete_fields(self, i: int, key: Any) -> None:
        self.tick()
        self.holds[i].dict("fields").pop(key, None)

    @rule(i=which, key=keys, n=st.binary(max_size=3))
    def set_bytes(self, i: int, key: Any, n: bytes) -> None:
        self.tick()
        self.holds[i].dict("bytes")[key] = n

    @rule(i=which, key=st.sampled_from(["t1", "t2"]), by=st.integers(1, 3))
    def try_task(self, i: int, key: str, by: int) -> None:
        self.tick()
        tasks = self.holds[i].tracker("tasks")
        tasks.add_if_absent(key)
        for _ in range(by):
            tasks.increment_tries(key)
        self.tries[key] = self.tries.get(key, 0) + by

    # -- what stays -------------------------------------------------------------------------------------------

    @rule(i=which, n=st.integers(0, 2))
    def keep_secret(self, i: int, n: int) -> None:
        self.tick()
        hold = self.holds[i]
        hold.dict("values")[f"{SECRET}{n}"] = SECRET
        hold.dict("values").mark(f"{SECRET}{n}", local=True)
        hold.dict("here")["x"] = SECRET
        if isinstance(hold.dict("fields").get("a"), dict):
            hold.dict("fields")["a"]["private"] = [SECRET]
        hold.tracker("leased").add_if_absent("task")
        hold.tracker("leased").claim(SECRET, 30.0)

    @rule(i=which, n=st.integers(0, 2))
    def change_secret(self, i: int, n: int) -> None:
        self.tick()
        d = self.holds[i].dict("values")
        if f"{SECRET}{n}" in d:
            d[f"{SECRET}{n}"] = [SECRET, n]

    @rule(i=which, n=st.integers(0, 2))
    def drop_secret(self, i: int, n: int) -> None:
        self.tick()
        self.holds[i].dict("values").pop(f"{SECRET}{n}", None)

    # -- telling ----------------------------------------------------------------------------------------------

    def ask(self, i: int, cursor: int) -> bytes:
        said = self.holds[i].since(cursor)
        packed = said.to_bytes()
        assert SECRET.encode() not in packed
        assert Changes.from_bytes(packed).to_bytes() == packed
        self.asked = said.cursor
        return packed

    @rule(i=which, j=which)
    def tell(self, i: int, j: int) -> None:
        if i != j:
            self.holds[j].apply(Changes.from_bytes(self.ask(i, self.cursors[i, j])))
            self.cursors[i, j] = self.asked

    @rule(i=which, j=which, part=st.floats(0, 1))
    def say(self, i: int, j: int, part: float) -> None:
        self.on_the_way.append(self.ask(i, int(self.cursors[i, j] * part)))

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data(), j=which)
    def deliver(self, data: st.DataObject, j: int) -> None:
        changes = Changes.from_bytes(data.draw(st.sampled_from(self.on_the_way)))
        self.holds[j].apply(changes)
        assert self.holds[j].apply(changes) == 0

    # -- between ----------------------------------------------------------------------------------------------

    @rule(i=which)
    def fold(self, i: int) -> None:
        self.holds[i].fold()

    @rule(i=which)
    def reopen(self, i: int) -> None:
        self.holds[i].close()
        self.open(i)

    @rule(i=which)
    def undo(self, i: int) -> None:
        with pytest.raises(ZeroDivisionError), self.holds[i].transaction():
            for name in ("values", "fields"):
                self.holds[i].dict(name)["a"] = {"never": 1}
            raise ZeroDivisionError

    def settle(self) -> None:
        """Everybody tells everybody everything, by way of another; then all say the same."""
        for i, j in [(0, 1), (1, 2), (2, 0), (0, 1), (1, 2)]:
            self.holds[j].apply(Changes.from_bytes(self.ask(i, 0)))
        for name in ("values", "fields", "bytes"):
            seen = [self.shareable(hold.dict(name)) for hold in self.holds]
            assert seen[0] == seen[1] == seen[2], name
        assert self.shareable(self.holds[0].dict("values")) == self.last
        for hold in self.holds:
            tasks = hold.tracker("tasks")
            assert {key: tasks.tries(key) for key in tasks} == self.tries
            assert hold.check() == []
        for hold in self.holds:
            before = {name: list(hold.dict(name).items()) for name in ("values", "bytes")}
            hold.fold()
            assert before == {name: list(hold.dict(name).items()) for name in before}
        again = [(i, j) for i in range(3) for j in range(3) if i != j]
        assert [self.holds[j].apply(Changes.from_bytes(self.ask(i, 0))) for i, j in again] == [0] * 6

    @staticmethod
    def shareable(d: Any) -> dict[Any, Any]:
        found = {key: value for key, value in d.copy().items() if SECRET not in str(key)}
        for value in found.values():
            if isinstance(value, dict):
                value.pop("private", None)
        return found


TestExchangeMachine = ExchangeMachine.TestCase
TestExchangeMachine.settings = settings(stateful_step_count=30, report_multiple_bugs=False)


# -- one by one -----------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], holdfast.Hold]]:
    opened: list[holdfast.Hold] = []

    def make_one(name: str) -> holdfast.Hold:
        opened.append(holdfast.open(tmp_path / f"{name}.hold", sync_seconds=None))
        return opened[-1]

    yield make_one
    for hold in opened:
        hold.close()


def tell(giver: holdfast.Hold, taker: holdfast.Hold) -> int:
    return taker.apply(Changes.from_bytes(giver.since(0).to_bytes()))


def test_a_copied_file_gets_a_node_of_its_own(make: Callable[[str], holdfast.Hold], tmp_path: Path) -> None:
    original = make("original")
    original.tracker("t").add("task")
    original.close()
    shutil.copy(tmp_path / "original.hold", tmp_path / "copy.hold")
    a, b = make("original"), make("copy")
    assert a._journal.uid_of(a._journal.here) != b._journal.uid_of(b._journal.here)
    for hold in (a, b, a, b, b):
        hold.tracker("t").increment_tries("task")
    tell(a, b)
    tell(b, a)
    assert a.tracker("t").tries("task") == b.tracker("t").tries("task") == 5
    assert a.check() == b.check() == []


def test_an_ephemeral_entry_is_not_there_after_a_restart(make: Callable[[str], holdfast.Hold]) -> None:
    hold = make("e")
    d = hold.dict("d")
    d.update({"kept": 1, "gone": 2, "folded": 3})
    d.mark("gone", ephemeral=True)
    d.mark("folded", ephemeral=True)
    whole = hold.dict("whole", ephemeral=True)
    whole["x"] = 1
    fields = hold.dict("fields", merge="fields", ephemeral=["seen"])
    fields["k"] = {"seen": 1, "name": "n"}
    hold.fold()
    d["gone"] = 4
    whole["y"] = 2
    fields["k"]["seen"] = 2
    hold.close()
    again = make("e")
    assert again.dict("d").copy() == {"kept": 1}
    assert again.dict("whole").copy() == {}
    assert again.dict("fields").copy() == {"k": {"name": "n"}}
    assert len(again.dict("d")) == 1 and again.check() == []


def test_a_local_mark_survives_a_kill(make: Callable[[str], holdfast.Hold], tmp_path: Path) -> None:
    """The mark is in a batch that was not folded when the program was killed: a copy of its files is what is left."""
    hold = make("m")
    hold.dict("d")["mine"] = SECRET
    hold.dict("d").mark("mine", local=True)
    hold.dict("d")["yours"] = 1
    hold.sync()
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"m.hold{suffix}", tmp_path / f"killed.hold{suffix}")
    killed = make("killed")
    assert SECRET.encode() not in killed.since(0).to_bytes()
    killed.fold()
    killed.dict("d")["mine"] = [SECRET]
    assert SECRET.encode() not in killed.since(0).to_bytes()
    del killed.dict("d")["mine"]
    killed.fold()
    assert b"mine" not in killed.since(0).to_bytes()
    killed.dict("d")["mine"] = SECRET
    assert b"mine" not in killed.since(0).to_bytes(), "the mark stays with the key"
    killed.fold()
    killed.dict("d").move_to_end("mine")
    killed.fold()
    assert b"mine" not in killed.since(0).to_bytes()
    killed.dict("d").mark("mine", local=False)
    assert SECRET.encode() in killed.since(0).to_bytes()


def test_changes_from_more_than_an_hour_ahead_are_refused_whole(
    make: Callable[[str], holdfast.Hold], monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = make("early"), make("late")
    late.dict("d")["past"] = 1
    late.sync()
    now = clock.now_ms
    monkeypatch.setattr(clock, "now_ms", lambda: now() + 2 * clock.HOUR_MS)
    late.dict("d")["future"] = 1
    changes = late.since(0)
    monkeypatch.undo()
    with pytest.raises(holdfast.InvalidError, match=r"'future'.*2\.0 hours.*clock"):
        early.apply(changes)
    assert "d" not in early.structures() or len(early.dict("d")) == 0
    early.dict("d")["mine"] = 1
    assert clock.milliseconds(early._journal.clock.last) < now() + clock.HOUR_MS


def test_deletions_travel_after_a_fold_and_a_restart(make: Callable[[str], holdfast.Hold]) -> None:
    a, b = make("a"), make("b")
    a.dict("d").update({i: i for i in range(10)})
    tell(a, b)
    for i in range(0, 10, 2):
        del a.dict("d")[i]
    a.fold()
    a.close()
    a = make("a")
    tell(a, b)
    assert list(b.dict("d")) == [1, 3, 5, 7, 9]
    assert tell(b, a) == 0


def test_a_deletion_beats_concurrent_edits_and_adding_anew_revives(
    make: Callable[[str], holdfast.Hold],
) -> None:
    a, b = make("a"), make("b")
    a.dict("f", merge="fields")["k"] = {"x": 1, "y": 1}
    tell(a, b)
    b.dict("f")["k"]["x"] = 2
    del a.dict("f")["k"]
    b.dict("f")["k"]["y"] = 3
    tell(b, a)
    tell(a, b)
    assert "k" not in a.dict("f") and "k" not in b.dict("f")
    b.dict("f")["k"] = {"z": 1}
    tell(b, a)
    assert a.dict("f")["k"] == {"z": 1}


def test_fields_of_one_key_merge(make: Callable[[str], holdfast.Hold]) -> None:
    a, b, c = make("a"), make("b"), make("c")
    a.dict("f", merge="fields")["k"] = {"deep": {"x": 1, "y": 1}, "log": [1]}
    tell(a, b)
    tell(b, c)
    a.dict("f")["k"]["deep"]["x"] = "a"
    b.dict("f")["k"]["deep"]["y"] = "b"
    del c.dict("f")["k"]["log"]
    held = a.dict("f")["k"]["deep"]
    for giver, taker in ((b, a), (c, a), (a, b), (b, c)):
        tell(giver, taker)
    assert a.dict("f")["k"] == b.dict("f")["k"] == c.dict("f")["k"] == {"deep": {"x": "a", "y": "b"}}
    assert held == {"x": "a", "y": "b"}, "a reference that was held shows what came"


def test_what_does_not_fit_is_refused(make: Callable[[str], holdfast.Hold]) -> None:
    a, b = make("a"), make("b")
    a.dict("d")["k"] = 1
    b.dict("d", merge="fields")
    with pytest.raises(holdfast.InvalidError, match="merges by 'fields' here"):
        tell(a, b)
    c = make("c")
    c.tracker("d")
    with pytest.raises(holdfast.InvalidError, match="is a tracker, not a dict"):
        tell(a, c)
    with pytest.raises(holdfast.InvalidError, match="cursor 99"):
        a.since(99)
    packed = a.since(0).to_bytes()
    for damaged in (b"", b"nonsense", packed[:-3], packed[:10], b"\x94\x02" + packed[2:]):
        with pytest.raises(holdfast.CorruptError):
            Changes.from_bytes(damaged)


def test_pickles_from_elsewhere_are_not_loaded_unasked(make: Callable[[str], holdfast.Hold]) -> None:
    a, b = make("a"), make("b")
    a.dict("p", serializer="pickle")["k"] = {1, 2}
    tell(a, b)
    with pytest.raises(holdfast.InvalidError, match="pickle"):
        b.dict("p")
    assert b.dict("p", serializer="pickle")["k"] == {1, 2}
