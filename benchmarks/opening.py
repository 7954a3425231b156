"""Opening a hold, each time in a fresh process: the import is not counted; open, dict and one get are.

"Unfolded" is what the library leaves when it is killed in the midst of random overwriting, at another point
each round, so that somewhere its backlog is near its bound; the worst round is judged.
"""

import random
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Bar, Rounds, Table, absolute
from benchmarks.lane import Lane, die, memory_bytes
from benchmarks.peers import Apsw, Holdfast, Store, imported, present
from benchmarks.scale import SYNC_EVERY, Scale, drawn, name, record, records


class Loader:
    def __init__(self, store: type[Store], path: str, keys: int) -> None:
        made = store(path)
        made.load(records(keys))
        made.close()


class Overwriting:
    """A process that overwrites at full speed and is killed."""

    def __init__(self, path: str, keys: int) -> None:
        self._store = Holdfast(path)
        self._keys = keys

    def overwrite(self, count: int, seed: int) -> None:
        table = self._store.dict
        for done, n in enumerate(drawn(self._keys, count, seed)):
            table[name(n)] = record(n, seed * 10**7 + done)
            if done % SYNC_EVERY == SYNC_EVERY - 1:
                table.sync()
        die()


class Opener:
    """A fresh process that has imported everything and opened nothing."""

    def __init__(self, store: type[Store]) -> None:
        self._make = store
        imported(store)

    def open(self, path: str, key: str | None) -> dict[str, float]:
        before, start = memory_bytes(), time.perf_counter()
        self._store = self._make(path)
        opened, memory = time.perf_counter(), memory_bytes()
        if key is not None:
            self._store.get(key)["id"]
        ended = time.perf_counter()
        return {"open": opened - start, "open and get": ended - start, "memory": float(memory - before)}

    def close(self) -> None:
        self._store.close()

    def die(self) -> None:
        die()


def _opened(store: type[Store], path: str, key: str | None, *, killed: bool = False) -> dict[str, float]:
    with Lane(Opener, store) as lane:
        sample: dict[str, float] = lane.call("open", path, key)
        if killed:  # closing would fold, and the next round would find less
            lane.call_to_death("die")
        else:
            lane.call("close")
    return sample


def run(scale: Scale, room: Path) -> Table:
    stores, missing = present(Holdfast, Apsw)
    rounds = Rounds([title for title in missing if title != OURS])
    folded, unfolded, empty = (f"{room}/{kind}.hold" for kind in ("folded", "unfolded", "empty"))
    turns: dict[str, Any] = {}
    draw = random.Random(1)
    if Apsw in stores:
        Lane(Loader, Apsw, f"{room}/apsw", scale.keys).close()
        turns["apsw"] = lambda n: _opened(Apsw, f"{room}/apsw", name(n))
    if Holdfast in stores:
        for path, keys in ((folded, scale.keys), (unfolded, scale.keys), (empty, 0)):
            Lane(Loader, Holdfast, path, keys).close()

        def open_unfolded(number: int) -> dict[str, float]:
            lane = Lane(Overwriting, unfolded, scale.keys)
            count = draw.randrange(scale.keys // 20, scale.keys // 2)
            lane.call_to_death("overwrite", count, number)
            return _opened(Holdfast, unfolded, name(number), killed=True)

        turns["empty"] = lambda n: _opened(Holdfast, empty, None)
        turns["folded"] = lambda n: _opened(Holdfast, folded, name(n))
        turns["unfolded"] = open_unfolded
    rounds.run(scale.rounds * 2, turns)
    return Table(
        "opening",
        f"Opening {scale.keys:,} entries",
        _rows(rounds, missing),
        [
            f"{scale.rounds * 2} rounds, each opening in a fresh process, files in the page cache of the system.",
            "Unfolded: killed after another number of random overwrites each round, opened as it was left; the "
            "slowest round counts. That includes SQLite's recovery of the log of a killed process.",
            "Memory: growth by opening the hold and its dict, before any value is read.",
        ],
    )


def _rows(rounds: Rounds, missing: list[str]) -> list[Any]:
    empty = rounds.series("empty", "open and get")
    base = statistics.median(empty) if empty else None

    def against(value: float | None) -> dict[str, float | None]:
        figures: dict[str, float | None] = {OURS: value}
        return figures

    def more(kind: str, judge: Any) -> float | None:
        series = rounds.series(kind, "open and get")
        return (judge(series) - base) * 1e3 if series and base is not None else None

    def memory(kind: str) -> float | None:
        series = rounds.series(kind, "memory")
        return max(series) / 1e6 if series else None

    peers = {
        who: figure
        for who, figure in rounds.figures("open and get", 1e3).items()
        if who in ("apsw", *missing)
    }
    rows = [absolute("open an empty hold", "ms", "wall", against(None if base is None else base * 1e3), None)]
    for kind, limit in (("folded", 10), ("unfolded", 20)):
        whole = rounds.figure(kind, "open and get")
        title = f"open + dict + one get, {kind}"
        rows.append(
            absolute(title, "ms", "wall", against(None if whole is None else whole * 1e3) | peers, None)
        )
        judge = statistics.median if kind == "folded" else max
        note = "" if kind == "folded" else ", slowest round"
        rows.append(
            absolute(
                f"{title}: more than an empty hold{note}",
                "ms",
                "wall",
                against(more(kind, judge)),
                Bar(limit, "ms"),
            )
        )
    for kind in ("folded", "unfolded"):
        rows.append(
            absolute(
                f"memory before values are touched, {kind}, most",
                "MB",
                "memory",
                against(memory(kind)),
                Bar(35, "MB"),
            )
        )
    return rows
