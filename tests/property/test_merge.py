"""The laws of the row algebra, and that each rule of it, broken once, makes the law fail that stands for it.

A law is a function of the module under test: the real one, or a mutant of it.
"""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from tests.property.merge_mutants import MUTANTS, Mutant

from holdfast.errors import CorruptError, InvalidError
from holdfast.journal import merge as real

FLOOR = real.FLOOR
Row = real.Row
LAWS: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[Any], ...]]] = {}
COUNTERS, SETS = frozenset({"n"}), frozenset({"tags"})
MERGING = {"counters": COUNTERS, "sets": SETS}


def law(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a test of a function of (module, *drawn), and keep the function for the mutants."""

    def register(function: Callable[..., None]) -> Callable[[], None]:
        LAWS[function.__name__] = function, strategies
        if not strategies:
            run = lambda: function(real)  # noqa: E731
        else:

            @given(st.tuples(*strategies))
            def run(drawn: tuple[Any, ...]) -> None:
                function(real, *drawn)

        run.__name__ = function.__name__
        return run

    return register


def encode(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


decode = json.loads

# -- what is drawn: few stamps, names and texts, so that they meet often ---------------------------------------

STAMPS = st.tuples(st.integers(0, 3), st.integers(0, 2))
NAMES = st.sampled_from(["x", "y", "n", "tags", '"', "\ud800", "ü"])
TEXTS = st.sampled_from(["1", "2", '"a"', "null", "[1,2]", "{}", "1.5"])
DEAD = st.builds(lambda at: Row("value", at, False, None), STAMPS)
COUNTS = st.one_of(st.integers(0, 3), st.sampled_from([1 << 63, (1 << 64) + 1]))
LEAVES = st.builds(lambda at, text: Row("value", at, True, text), STAMPS, TEXTS)
BLOBS = st.builds(lambda at, blob: Row("value", at, True, blob), STAMPS, st.binary(max_size=1))


def rows_of(kind: Any, bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
    return st.builds(lambda at, body: Row(kind, at, True, body), STAMPS, bodies)


SPECIAL = st.one_of(
    rows_of("counter", st.dictionaries(st.integers(0, 2), st.tuples(COUNTS, COUNTS), max_size=3)),
    rows_of("set", st.dictionaries(TEXTS, st.tuples(STAMPS, st.booleans()), max_size=3)),
    rows_of("records", st.dictionaries(st.tuples(st.integers(0, 1), st.integers(0, 1)), TEXTS, max_size=3)),
)
READABLE = st.recursive(
    st.one_of(LEAVES, DEAD, SPECIAL),
    lambda inner: rows_of("fields", st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
ROWS = st.recursive(
    st.one_of(LEAVES, BLOBS, DEAD, SPECIAL),
    lambda inner: rows_of("fields", st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
ALIKE = st.one_of(*[st.tuples(kind, kind, kind) for kind in (ROWS, SPECIAL, rows_of("fields", st.just({})))])
THREE = st.one_of(ALIKE, ALIKE.map(lambda rows: tuple(row._replace(epoch=FLOOR) for row in rows)))

SCALARS = st.sampled_from([None, True, 0, 1, 1.5, "a", [], [1, {"x": 2}]])
NESTED = st.recursive(
    SCALARS, lambda inner: st.dictionaries(st.sampled_from("pqr"), inner, max_size=3), max_leaves=6
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "x": NESTED,
        "y": NESTED,
        "n": st.integers(-5, 5),
        "tags": st.lists(st.sampled_from([1, 1.5, "a", None, ["b"], {"c": 1}]), unique_by=encode, max_size=3),
    },
)


def reads_as(entry: Any) -> Any:
    """An entry as it reads: sets are lists in the order of their encoded elements."""
    if isinstance(entry, dict) and isinstance(entry.get("tags"), list):
        return {**entry, "tags": sorted(entry["tags"], key=encode)}
    return entry


def same(one: Any, other: Any) -> bool:
    """Equal as JSON, where True is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


# -- join ------------------------------------------------------------------------------------------------------


@law(THREE)
def test_join_is_commutative(m: Any, rows: tuple[Row, ...]) -> None:
    a, b, _ = rows
    assert m.join(a, b) == m.join(b, a)


@law(THREE)
def test_join_is_associative(m: Any, rows: tuple[Row, ...]) -> None:
    a, b, c = rows
    assert m.join(a, m.join(b, c)) == m.join(m.join(a, b), c)


@law(THREE)
def test_join_is_idempotent(m: Any, rows: tuple[Row, ...]) -> None:
    a, b, _ = rows
    assert m.join(a, a) == a
    assert m.join(m.join(a, b), b) == m.join(a, b)


@law(THREE)
def test_the_higher_epoch_wins_whole(m: Any, rows: tuple[Row, ...]) -> None:
    a, b, _ = rows
    if a.epoch > b.epoch:
        assert m.join(a, b) == a
        assert m.join(b, a) == a


@law(ROWS, STAMPS)
def test_a_deletion_wins_over_what_has_its_stamp(m: Any, row: Row, stamp: tuple[int, int]) -> None:
    dead = m.deletion("fields", stamp)
    assert m.join(row._replace(epoch=stamp), dead) == dead


@law(TEXTS, TEXTS)
def test_of_two_values_with_one_stamp_the_greater_text_wins(m: Any, one: str, other: str) -> None:
    joined = m.join(Row("value", (1, 1), True, one), Row("value", (1, 1), True, other))
    assert joined.body == max(one, other)


@law()
def test_bytes_win_over_text_with_the_same_stamp(m: Any) -> None:
    blob = Row("value", (1, 1), True, b"")
    assert m.join(Row("value", (1, 1), True, "9"), blob) == blob


@law(STAMPS, STAMPS)
def test_of_an_element_the_newer_version_is_kept(m: Any, a: Any, b: Any) -> None:
    for there_a, there_b in ((True, False), (False, True), (True, True)):
        one, other = (Row("set", FLOOR, True, {"1": version}) for version in ((a, there_a), (b, there_b)))
        (kept,) = m.join(one, other).body.values()
        newer = max(a, b)
        assert kept[0] == newer
        # With one stamp for both, the removal wins.
        assert kept[1] == (there_a and there_b if a == b else there_a if a == newer else there_b)


@law(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_of_each_count_the_greater_is_kept(m: Any, a: Any, b: Any) -> None:
    one, other = (Row("counter", FLOOR, True, {1: counts}) for counts in (a, b))
    assert m.join(one, other).body == {1: (max(a[0], b[0]), max(a[1], b[1]))}


@law(
    st.lists(st.tuples(st.integers(0, 2), st.none() | st.integers(-4, 4)), max_size=14),
    st.randoms(use_true_random=False),
)
def test_counters_are_exact_whatever_the_order_of_delivery(
    m: Any, acts: list[tuple[int, Any]], random: Any
) -> None:
    """Three nodes count, or (None) take what the next one has; then all deltas come doubled and shuffled."""
    start = Row("fields", FLOOR, True, {"n": Row("counter", FLOOR, True, {})})
    own = [start, start, start]
    deltas = []
    for clock, (node, step) in enumerate(acts, 1):
        if step is None:
            own[node] = m.join(own[node], own[(node + 1) % 3])
            continue
        target = m.value(own[node], decode)["n"] + step
        delta = m.difference(own[node], {"n": target}, (clock, node), encode, counters=COUNTERS)
        if delta is not None:
            own[node] = m.join(own[node], delta)
            deltas += [delta, delta]
    random.shuffle(deltas)
    joined = start
    for delta in deltas:
        joined = m.join(joined, delta)
    assert m.value(joined, decode)["n"] == sum(step for _, step in acts if step is not None)


@law(THREE)
def test_joining_leaves_both_as_they_were(m: Any, rows: tuple[Row, ...]) -> None:
    a, b = copy.deepcopy(rows[:2])
    m.join(a, b)
    assert (a, b) == rows[:2]


@law(ROWS)
def test_newest_is_the_greatest_stamp_anywhere(m: Any, row: Row) -> None:
    assert m.newest(row) == max(stamps_in(row))


def stamps_in(row: Row) -> list[int]:
    found = [row.epoch[0]]
    if row.kind == "fields":
        found += [stamp for field in row.body.values() for stamp in stamps_in(field)]
    if row.kind == "set":
        found += [stamp for (stamp, _), _ in row.body.values()]
    return found


@law(THREE, st.frozensets(NAMES, max_size=2))
def test_leaving_fields_out_commutes_with_joining(
    m: Any, rows: tuple[Row, ...], names: frozenset[str]
) -> None:
    a, b, _ = rows
    assert m.without(m.join(a, b), names) == m.join(m.without(a, names), m.without(b, names))


@law(ROWS, st.frozensets(NAMES, min_size=1, max_size=3))
def test_only_the_named_fields_are_left_out(m: Any, row: Row, names: frozenset[str]) -> None:
    less = m.without(row, names)
    if row.kind != "fields":
        assert less == row
    else:
        assert less == row._replace(body={k: v for k, v in row.body.items() if k not in names})


# -- difference ------------------------------------------------------------------------------------------------


@law(st.lists(st.one_of(ENTRIES, st.none()), min_size=1, max_size=6), st.integers(0, 63))
def test_a_delta_joined_to_the_old_row_reads_as_the_new_value(m: Any, history: list[Any], told: int) -> None:
    """None deletes. At some of the steps the writer does not know which fields are counters and sets."""
    row = None
    for clock, entry in enumerate(history, 1):
        stamp, options = (clock, clock % 3), MERGING if told >> clock & 1 else {}
        before = row
        delta = (
            m.deletion("fields", stamp)
            if entry is None
            else m.difference(row, entry, stamp, encode, **options)
        )
        if delta is not None:
            row = delta if row is None else m.join(row, delta)
        assert row is not None
        assert row.alive == (entry is not None)
        assert same(reads_as(m.value(row, decode)), reads_as(entry))
        if delta is not None and before is not None:
            assert m.join(delta, before) == row
        if entry is not None:
            assert m.difference(row, entry, (clock + 1, 0), encode, **options) is None


@law(ENTRIES, ENTRIES)
def test_a_delta_holds_only_what_differs(m: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
    row = m.difference(None, old, (1, 1), encode, **MERGING)
    assert m.difference(row, old, (2, 2), encode, **MERGING) is None
    delta = m.difference(row, new, (2, 2), encode, **MERGING)
    missing = object()
    read_old, read_new = reads_as(old), reads_as(new)
    differ = {
        name
        for name in {*old, *new}
        if not (
            name in old and name in new and same(read_old.get(name, missing), read_new.get(name, missing))
        )
    }
    assert (set() if delta is None else set(delta.body)) == differ


@law(ENTRIES)
def test_leaves_are_compared_as_text_whatever_merges(m: Any, entry: dict[str, Any]) -> None:
    """Fields that were written before they became counters or sets stay as they are until they change."""
    row = m.difference(None, entry, (1, 1), encode)
    assert m.difference(row, entry, (2, 2), encode, **MERGING) is None


@law(ENTRIES, ENTRIES)
def test_two_who_create_the_same_entry_join(m: Any, a: Any, b: Any) -> None:
    one = m.difference(None, a, (1, 1), encode, **MERGING)
    other = m.difference(None, b, (2, 2), encode, **MERGING)
    joined = m.value(m.join(one, other), decode)
    assert set(joined) == {*a, *b}
    assert joined.get("n", 0) == a.get("n", 0) + b.get("n", 0)
    assert {*map(encode, joined.get("tags", ()))} == {*map(encode, [*a.get("tags", ()), *b.get("tags", ())])}


@law(st.sampled_from(["n", "tags", "x"]))
def test_two_who_create_the_same_field_join(m: Any, name: str) -> None:
    base = m.difference(None, {"y": 1}, (1, 1), encode)
    ours, theirs, both = {
        "n": (1, 2, 3),
        "tags": ([1], [2], [1, 2]),
        "x": ({"p": 1}, {"q": 2}, {"p": 1, "q": 2}),
    }[name]
    one = m.difference(base, {"y": 1, name: ours}, (2, 1), encode, **MERGING)
    other = m.difference(base, {"y": 1, name: theirs}, (3, 2), encode, **MERGING)
    assert m.value(m.join(base, m.join(one, other)), decode) == {"y": 1, name: both}


@law(ENTRIES, ENTRIES, st.sampled_from([None, "entry", "value"]))
def test_what_replaces_wins_over_concurrent_edits_of_what_was(m: Any, old: Any, new: Any, was: Any) -> None:
    """Whoever has the later stamp."""
    row = m.difference(None, old, (1, 1), encode, **MERGING)
    edit = m.difference(row, {**old, "x": "edited"}, (9, 2), encode, **MERGING)
    if was is None:
        replaced = m.replacement(new, (5, 1), encode, **MERGING)
    else:
        standing = m.deletion("fields", (4, 1)) if was == "entry" else Row("value", (4, 1), True, "5")
        replaced = m.join(standing, m.difference(standing, new, (5, 1), encode, **MERGING))
    joined = m.join(m.join(row, edit), replaced)
    assert joined == replaced
    assert same(m.value(joined, decode), reads_as(new))


@law(ENTRIES)
def test_a_deletion_wins_over_later_edits_of_what_it_deleted(m: Any, old: dict[str, Any]) -> None:
    row = m.difference(None, old, (1, 1), encode, **MERGING)
    edit = m.difference(row, {**old, "x": "edited"}, (9, 2), encode, **MERGING)
    dead = m.deletion("fields", (5, 1))
    assert m.join(m.join(row, edit), m.join(row, dead)) == dead


@law(st.sampled_from([5, [1], None, {"p": 1}]))
def test_what_is_put_where_something_stood_outlives_it(m: Any, was: Any) -> None:
    """A dict, counter or set that takes the place of a leaf, or of a deleted field, beats edits of that."""
    for name, now in (("x", {"q": 1}), ("n", 7), ("tags", ["b"])):
        row = m.difference(None, {name: was}, (1, 1), encode)
        if isinstance(was, dict):
            row = m.join(row, m.difference(row, {}, (2, 1), encode))
        concurrent = m.difference(row, {name: "leaf"}, (3, 2), encode)
        delta = m.difference(row, {name: now}, (4, 1), encode, **MERGING)
        assert m.value(m.join(m.join(row, concurrent), delta), decode) == {name: now}


@law(st.booleans())
def test_of_an_edit_and_a_deletion_of_a_field_the_later_is_kept(m: Any, edited_later: bool) -> None:
    row = m.difference(None, {"x": 1, "y": {"p": 1}}, (1, 1), encode)
    deleted = m.difference(row, {}, (3, 1), encode)
    edited = m.difference(row, {"x": 2, "y": {"p": 2}}, (4 if edited_later else 2, 2), encode)
    # The dict y is gone whole, with all that was in it, as an entry would be.
    assert m.value(m.join(row, m.join(deleted, edited)), decode) == ({"x": 2} if edited_later else {})


@law()
def test_edits_of_different_leaves_are_both_kept(m: Any) -> None:
    row = m.difference(None, {"x": {"p": {"q": 1, "r": 1}}}, (1, 1), encode)
    one = m.difference(row, {"x": {"p": {"q": 2, "r": 1}}}, (2, 1), encode)
    other = m.difference(row, {"x": {"p": {"q": 1, "r": 3}, "s": 4}}, (3, 2), encode)
    assert m.value(m.join(row, m.join(one, other)), decode) == {"x": {"p": {"q": 2, "r": 3}, "s": 4}}


@law()
def test_emptied_dicts_read_as_empty_dicts(m: Any) -> None:
    row = m.difference(None, {"x": {"p": {"q": 1}}}, (1, 1), encode)
    for clock, entry in enumerate(({"x": {"p": {}}}, {"x": {}}, {}, {"x": {}}), 2):
        row = m.join(row, m.difference(row, entry, (clock, 1), encode))
        assert m.value(row, decode) == entry
    assert m.value(m.difference(None, {}, (1, 1), encode), decode) == {}


@law(st.sampled_from([True, 1.0, "1", None, [1], {"p": 1}, 1 << 2_000]))
def test_a_counter_holds_ints_alone(m: Any, wrong: Any) -> None:
    with pytest.raises(InvalidError, match="'n'"):
        m.difference(None, {"n": wrong}, (1, 1), encode, counters=COUNTERS)
    with pytest.raises(InvalidError, match="'n'"):
        m.replacement({"n": wrong}, (1, 1), encode, counters=COUNTERS)
    assert m.value(m.difference(None, {"x": {"n": wrong}}, (1, 1), encode, counters=COUNTERS), decode)


@law(st.sampled_from([1, "ab", None, {"p": 1}, [1, 1], [{"p": 1}, {"p": 1}]]))
def test_a_set_holds_lists_of_different_values_alone(m: Any, wrong: Any) -> None:
    with pytest.raises(InvalidError, match="'tags'"):
        m.difference(None, {"tags": wrong}, (1, 1), encode, sets=SETS)
    assert m.value(m.difference(None, {"x": {"tags": wrong}}, (1, 1), encode, sets=SETS), decode)


@law()
def test_a_field_stays_what_it_is_for_writers_that_were_not_told(m: Any) -> None:
    row = m.difference(None, {"n": 1, "tags": [1]}, (1, 1), encode, **MERGING)
    told = m.difference(row, {"n": 3, "tags": [1, 2]}, (2, 1), encode, **MERGING)
    untold = m.difference(row, {"n": 5, "tags": [1, 3]}, (3, 2), encode)
    assert m.value(m.join(row, m.join(told, untold)), decode) == {"n": 7, "tags": [1, 2, 3]}


def deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {"p": 1}
    for _ in range(levels):
        nested = {"p": nested}
    return nested


@law()
def test_very_deep_dicts_are_kept(m: Any) -> None:
    entry = deep(200)
    row = m.difference(None, entry, (1, 1), encode)
    assert m.unpack(m.pack(row)) == row
    assert m.reassemble(m.value(row, decode), row.epoch, True, m.stamps(row), encode) == row
    assert m.value(row, decode) == entry
    assert m.difference(row, entry, (2, 1), encode) is None


# -- replicas --------------------------------------------------------------------------------------------------


class Replica:
    """One hold's rows; every delta that it writes goes to `sent`."""

    def __init__(self, m: Any, node: int, sent: list[tuple[str, Row]]) -> None:
        self.m, self.node, self.sent, self.clock = m, node, sent, 0
        self.rows: dict[str, Row] = {}

    def receive(self, key: str, row: Row) -> None:
        self.clock = max(self.clock, self.m.newest(row))
        self.rows[key] = self.m.join(self.rows[key], row) if key in self.rows else row

    def receive_all(self, rows: dict[str, Row]) -> None:
        for key, row in list(rows.items()):
            self.receive(key, row)

    def write(self, verb: str, key: str, entry: dict[str, Any]) -> None:
        self.clock += 1
        old, stamp = self.rows.get(key), (self.clock, self.node)
        delta: Row | None
        if verb == "delete":
            delta = self.m.deletion("fields", stamp) if old is not None and old.alive else None
        elif verb == "replace":
            delta = self.m.replacement(entry, stamp, encode, **MERGING)
        else:
            delta = self.m.difference(old, entry, stamp, encode, **MERGING)
        if delta is not None:
            self.receive(key, delta)
            self.sent.append((key, delta))


WHOLE = st.builds(lambda some: {"x": 0, "y": 0, "n": 0, "tags": [], **some}, ENTRIES)


class Act(NamedTuple):
    """One thing that happens at `here`: a write, or the coming of another's rows, of old rows or of an old delta."""

    verb: str
    here: int
    which: int
    key: str
    entry: dict[str, Any]


ACTS = st.lists(
    st.builds(
        Act,
        st.sampled_from(["write", "write", "replace", "delete", "rows", "rows", "old rows", "old delta"]),
        st.integers(0, 2),
        st.integers(0, 20),
        st.sampled_from("ab"),
        WHOLE,
    ),
    max_size=14,
)


@law(ACTS, st.randoms(use_true_random=False))
def test_replicas_converge(m: Any, acts: list[Act], random: Any) -> None:
    """Whatever they do and in whatever order rows and deltas come, doubled and late; no entity stays partial."""
    sent: list[tuple[str, Row]] = []
    replicas = [Replica(m, node, sent) for node in range(3)]
    past: list[dict[str, Row]] = []
    for act in acts:
        perform(act, replicas, sent, past)
        past.append(dict(replicas[act.here].rows))
        if not any(one.verb == "old delta" for one in acts):
            assert_whole(m, replicas[act.here])  # a delta may come before what it is a change of
    exchange(replicas, random)
    assert replicas[0].rows == replicas[1].rows == replicas[2].rows
    only_deltas = Replica(m, 9, [])
    for key, delta in random.sample(sent * 2, len(sent) * 2):
        only_deltas.receive(key, delta)
    assert only_deltas.rows == replicas[0].rows
    assert_whole(m, replicas[0])


def perform(
    act: Act, replicas: list[Replica], sent: list[tuple[str, Row]], past: list[dict[str, Row]]
) -> None:
    here = replicas[act.here]
    if act.verb == "rows":
        here.receive_all(replicas[act.which % 3].rows)
    elif act.verb == "old rows":
        here.receive_all(past[act.which % len(past)] if past else {})
    elif act.verb == "old delta":
        for key, delta in sent[act.which % len(sent) :][:1] if sent else ():
            here.receive(key, delta)
    else:
        here.write(act.verb, act.key, act.entry)
        if act.verb != "delete":
            assert same(here.m.value(here.rows[act.key], decode), reads_as(act.entry))


def exchange(replicas: list[Replica], random: Any) -> None:
    pairs = [(a, b) for a in replicas for b in replicas if a is not b]
    for order in (random.sample(pairs, len(pairs)), pairs, pairs):
        for here, there in order:
            here.receive_all(there.rows)


def assert_whole(m: Any, replica: Replica) -> None:
    for row in replica.rows.values():
        if row.alive:
            assert set(m.value(row, decode)) == {"x", "y", "n", "tags"}


# -- bytes -----------------------------------------------------------------------------------------------------


@law(ROWS)
def test_a_packed_row_comes_back(m: Any, row: Row) -> None:
    assert m.unpack(m.pack(row)) == row
    assert list_of_names(m.unpack(m.pack(row))) == list_of_names(row)


def list_of_names(row: Row) -> list[Any]:
    if row.kind != "fields":
        return []
    return [(name, list_of_names(field)) for name, field in row.body.items()]


@law(READABLE)
def test_a_value_and_its_stamps_make_the_row_again(m: Any, row: Row) -> None:
    value = json.loads(json.dumps(m.value(row, decode)))
    assert m.reassemble(value, row.epoch, row.alive, m.stamps(row), encode) == row


@law(READABLE)
def test_the_inner_stamps_do_not_depend_on_the_epoch(m: Any, row: Row) -> None:
    """A checker that knows only value and stamps can ask whether they fit."""
    if row.alive:
        m.reassemble(m.value(row, decode), FLOOR, True, m.stamps(row), encode)


@law()
def test_inner_stamps_are_small(m: Any) -> None:
    entry = {f"field {number}": number for number in range(8)}
    row = m.replacement(entry, (1 << 60, 1 << 62), encode)
    assert len(m.stamps(row)) < 10
    assert len(m.stamps(m.difference(None, entry, (1 << 60, 1 << 62), encode))) < 30
    assert len(m.pack(row)) < len(encode(entry)) + 60


@law(ROWS, st.binary(max_size=4), st.integers(0, 200), st.integers(0, 3))
def test_damaged_bytes_are_refused_or_read_as_a_row(
    m: Any, row: Row, noise: bytes, at: int, cut: int
) -> None:
    packed = m.pack(row)
    at %= len(packed) + 1
    hostile(m, packed[:at] + noise + packed[at + cut :])
    hostile(m, noise)
    hostile(m, packed[:1] + noise)


def hostile(m: Any, packed: bytes) -> None:
    try:
        read = m.unpack(packed)
    except CorruptError:
        return
    assert m.join(read, read) == read
    assert m.unpack(m.pack(read)) == read


@law(READABLE, NESTED, st.binary(max_size=4), st.integers(0, 200))
def test_stamps_that_do_not_fit_are_refused(m: Any, row: Row, other: Any, noise: bytes, at: int) -> None:
    inner = m.stamps(row)
    for bytes_, value in ((inner[:at] + noise + inner[at + 1 :], m.value(row, decode)), (inner, other)):
        try:
            again = m.reassemble(value, row.epoch, True, bytes_, encode)
        except CorruptError:
            continue
        assert same(m.value(again, decode), value) or again.kind in ("set", "records")


@law(st.sampled_from([real.MAX_DEPTH + 2, 5_000, 300_000]))
def test_bytes_nested_too_deep_are_refused(m: Any, levels: int) -> None:
    fields = b"\x93\x02\x00\x81\xa1p"
    with pytest.raises(CorruptError):
        m.unpack(b"\x01\x92\x90" + fields * levels + b"\xff")
    with pytest.raises(CorruptError):
        m.reassemble(
            deep(min(levels, 200)), FLOOR, True, b"\x01\x93\x00\x90" + fields * levels + b"\xff", encode
        )


MISFITS: list[tuple[str, Any, Any]] = [
    ("the field 'x' has no value", {"x": {"p": 1}}, {}),
    ("a dead field has a value", {"x": 1}, {"x": 1, "gone": 5}),
    ("the fields have no dict", {"x": {"p": 1}}, {"x": [1]}),
    ("the fields have no dict", {"x": 1}, [1]),
    ("a counter does not have its value", {"n": 3}, {"n": 4}),
    ("a counter does not have its value", {"n": 1}, {"n": True}),
    ("elements of a set are missing", {"tags": [1, 2]}, {"tags": [1]}),
    ("elements of a set are missing", {"tags": [1]}, {"tags": "a"}),
]


@law(st.sampled_from(MISFITS))
def test_a_value_that_was_changed_from_outside_is_seen(m: Any, misfit: tuple[str, Any, Any]) -> None:
    why, entry, changed = misfit
    row = m.difference(None, {**entry, "gone": 1}, (1, 1), encode, **MERGING)
    row = m.join(row, m.difference(row, entry, (2, 2), encode, **MERGING))
    with pytest.raises(CorruptError, match=why):
        m.reassemble(changed, row.epoch, True, m.stamps(row), encode)


@law(st.sampled_from([b"", b"\x00", b"\x02", b"\x02\x01"]))
def test_other_formats_are_refused_with_what_to_do(m: Any, other: bytes) -> None:
    with pytest.raises(CorruptError, match=r"newer version.*holdfast check"):
        m.unpack(other + m.pack(Row("value", (1, 1), True, "1"))[1:])


@law()
def test_places_outside_the_list_of_stamps_are_refused(m: Any) -> None:
    head = b"\x01\x92\x90"
    for node in (
        b"\x93\x00\x05\xa11",
        b"\x93\x00\xff\xa11",
        b"\x00",
        b"\xf0",
        b"\x93\x04\x00\x81\xa11\x05",
        b"\xfe",
    ):
        with pytest.raises(CorruptError):
            m.unpack(head + node)


@law()
def test_the_bytes_are_those_of_format_1(m: Any) -> None:
    """Files outlive versions: a change of these bytes needs a new format number."""
    row = m.difference(None, {"x": {"p": 1}, "y": None, "n": -2, "tags": ["a"]}, (7, 3), encode, **MERGING)
    row = m.join(row, m.difference(row, {"x": {"p": 1}, "n": -2, "tags": []}, (8, 3), encode, **MERGING))
    assert m.pack(row).hex() == PACKED
    assert m.stamps(row).hex() == INNER
    assert m.unpack(bytes.fromhex(PACKED)) == row


PACKED = "01929292070392080393020084a17893020081a170930001a131a179fda16e9303009193030002a47461677393040081a3226122fd"
INNER = "0193029292070392080393020084a17893020080a179fca16e9303009193030002a4746167739404009081a322612203"


# -- mutants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.rule.replace(" ", "-"))
def test_a_broken_rule_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = module_of(mutant, monkeypatch)
    function, strategies = LAWS[mutant.caught_by]
    with pytest.raises((Exception, pytest.fail.Exception)) as noticed:
        search(function, strategies, broken)
    assert not isinstance(noticed.value, HypothesisException), noticed.value


def module_of(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    source = Path(real.__file__).read_text(encoding="utf-8")
    assert source.count(mutant.right) == 1, f"the mutant does not fit the source any more: {mutant}"
    module = ModuleType("broken_merge")
    monkeypatch.setitem(
        sys.modules, module.__name__, module
    )  # where the annotations of its structs are resolved
    exec(compile(source.replace(mutant.right, mutant.wrong), mutant.rule, "exec"), module.__dict__)
    return module


def search(
    function: Callable[..., None], strategies: tuple[st.SearchStrategy[Any], ...], module: Any
) -> None:
    """Run the law on the module until it fails: the same examples each time, none made smaller."""
    if not strategies:
        return function(module)

    @settings(max_examples=1_000, derandomize=True, database=None, phases=[Phase.generate], print_blob=False)
    @given(st.tuples(*strategies))
    def run(drawn: tuple[Any, ...]) -> None:
        function(module, *drawn)

    return run()
