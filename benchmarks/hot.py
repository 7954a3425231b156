"""Values that are in memory already: get, set and change of one, beside a plain dict.

All contestants live in one process and take turns there; CPU time an operation, the `for` loop around it
included for each. Nothing is synced while the clock runs (other groups measure that), except in the row that says so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Bar, Rounds, Row, Table, timed
from benchmarks.lane import Lane
from benchmarks.peers import Apsw, Diskcache, Holdfast, Lmdb, installed, present
from benchmarks.scale import Scale, name, record

NEVER = {"sync_changes": 10**9, "sync_seconds": 86_400.0}


def _get(table: Any, keys: list[str], passes: int) -> None:
    for _ in range(passes):
        for key in keys:
            table[key]


def _set_scalar(table: Any, keys: list[str], passes: int, start: int) -> None:
    for value in range(start, start + passes):
        for key in keys:
            table[key] = value


def _change_nested(table: Any, keys: list[str], passes: int) -> None:
    for _ in range(passes):
        for key in keys:
            table[key]["n"] += 1


def _set_record(table: Any, pairs: list[list[tuple[str, Any]]]) -> None:
    for some in pairs:
        for key, value in some:
            table[key] = value


def _encode_and_set(table: Any, pairs: list[list[tuple[str, Any]]], encode: Callable[[Any], bytes]) -> None:
    for some in pairs:
        for key, value in some:
            table[key] = encode(value)


def _read_record(get: Callable[[str], Any], keys: list[str], passes: int) -> None:
    for _ in range(passes):
        for key in keys:
            get(key)["id"]


class Hot:
    """All contestants in one process; a round gives CPU seconds an operation."""

    def __init__(self, room: str, scale: Scale) -> None:
        import msgspec

        self._encode = msgspec.json.Encoder().encode
        self._passes = scale.hot_passes
        self._keys = [name(n) for n in range(scale.hot_keys)]
        # Each pass gives a key another value than the pass before, so that none of them is unchanged.
        self._pairs = [
            [(key, record(n, n * 31 + salt)) for n, key in enumerate(self._keys)]
            for salt in range(max(2, scale.hot_passes // 10))
        ]
        self._stores: dict[str, Any] = {}
        for store in present(Lmdb, Apsw, Diskcache)[0]:
            self._stores[store.title] = store(f"{room}/{store.title}")
            self._stores[store.title].load(self._pairs[0])
        self._tables: dict[str, dict[str, Any]] = {"dict": self._filled({})}
        self._holds: list[Any] = []
        if installed(Holdfast):
            self._tables[OURS] = self._filled(self._hold_tables(room))

    def _hold_tables(self, room: str) -> dict[str, Any]:
        import holdfast

        hold: Any = holdfast.open(f"{room}/alone.hold", **NEVER)
        usual: Any = holdfast.open(f"{room}/usual.hold")
        shared: Any = holdfast.open(f"{room}/shared.hold", shared=True)
        self._holds = [hold, usual, shared]
        return {
            "scalars": hold.dict("scalars"),
            "nested": hold.dict("nested"),
            "records": hold.dict("records"),
            "usual": usual.dict("usual"),
            "shared": shared.dict("shared"),
        }

    def _filled(self, tables: dict[str, Any]) -> dict[str, Any]:
        for which in ("scalars", "nested", "records", "usual", "shared"):
            table = tables.setdefault(which, {})
            table.update({key: {"n": 0} if which == "nested" else 0 for key in self._keys})
        return tables

    def round(self, who: str, number: int) -> dict[str, float]:
        """CPU seconds an operation, a measurement each."""
        if who in self._stores:
            return {
                "read": self._cost(
                    _read_record, self._stores[who].get, self._keys, max(1, self._passes // 10)
                )
            }
        tables, keys, passes = self._tables[who], self._keys, self._passes
        costs = {
            "get": self._cost(_get, tables["scalars"], keys, passes),
            "shared get": self._cost(_get, tables["shared"], keys, passes),
            "set": self._cost(_set_scalar, tables["scalars"], keys, passes, number * passes + 1),
            "usual set": self._cost(
                _set_scalar, tables["usual"], keys, max(1, passes // 10), number * passes + 1
            ),
            "nested": self._cost(_change_nested, tables["nested"], keys, passes),
        }
        if who == OURS:
            costs["record"] = self._cost(_set_record, tables["records"], self._pairs)
        else:
            costs["record"] = self._cost(_encode_and_set, tables["records"], self._pairs, self._encode)
            tables["records"].update(self._pairs[-1])
        costs["read"] = self._cost(_read_record, tables["records"].__getitem__, keys, passes)
        self._sync()
        return costs

    def _sync(self) -> None:
        for hold in self._holds:
            hold.sync()

    def _cost(self, loop: Callable[..., None], *given: Any) -> float:
        passes = len(self._pairs) if loop in (_set_record, _encode_and_set) else given[2]
        return timed(loop, *given).cpu / (passes * len(self._keys))

    def close(self) -> None:
        for hold in self._holds:
            hold.close()


def run(scale: Scale, room: Path) -> Table:
    stores, missing = present(Lmdb, Apsw, Diskcache)
    contestants = [OURS] * installed(Holdfast) + ["dict", *(store.title for store in stores)]
    rounds = Rounds(missing)
    with Lane(Hot, str(room), scale) as lane:
        rounds.run(
            scale.rounds * 3,
            {who: (lambda number, who=who: lane.call("round", who, number)) for who in contestants},
        )
        lane.call("close")

    def slower(what: str, title: str, bar: Bar | None) -> Row:
        return rounds.slower(what, "dict", bar, title=title, unit="ns", scale=1e9, clock="CPU")

    rows = [
        slower("get", "hot get, unshared", Bar(2.3)),
        slower("set", "hot set of a scalar over existing keys, unshared", Bar(7)),
        slower("nested", 'nested read-modify-write: d[k]["n"] += 1, unshared', Bar(5.5)),
        slower(
            "record", "set of a 136 B record, checked and encoded; dict: msgspec.json encode + set", Bar(1.6)
        ),
        slower("shared get", "hot get, shared (freshness checked at each)", Bar(3.5)),
        slower("usual set", "hot set of a scalar with the default thresholds, their syncs included", None),
    ]
    for store in stores:
        least = {"lmdb": 6, "apsw": 30, "diskcache": 75}[store.title]
        rows.append(
            rounds.faster(
                "read", store.title, Bar(least, at_least=True),
                title='hot read of a record: d[k]["id"]', unit="ns", scale=1e9, clock="CPU",
            )
        )  # fmt: skip
    return Table(
        "hot",
        "Hot: values already in memory",
        rows,
        [
            f"{scale.hot_keys:,} keys, {scale.hot_passes} passes a round, {scale.rounds * 3} rounds; the loop counts.",
            "Raw stores decode at each read, by msgspec (diskcache: its own pickle).",
        ],
    )
