"""Update 1,000 of 100,000 entries and sync, wall time, beside all peers.

Each contestant has a process of its own, one at work at a time. What a contestant does between its rounds (Holdfast
folds when idle) is not free: the CPU that its helper threads spent between its rounds, and what it still had to
do at the end (`hold.fold()`, a checkpoint), is shared out over the rounds in the row "mean".
"""

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Bar, Rounds, Row, Table, timed
from benchmarks.lane import Lane
from benchmarks.peers import (
    Apsw,
    ApswTuned,
    Booklet,
    Diskcache,
    Holdfast,
    Lmdb,
    Rocksdict,
    Shelve,
    Sqlite3,
    Sqlitedict,
    Store,
    Tastypy,
    Zodb,
    present,
)
from benchmarks.scale import SYNC_EVERY, Scale, distinct, name, record, records

PEERS = (Apsw, ApswTuned, Sqlite3, Lmdb, Rocksdict, Diskcache, Sqlitedict, Shelve, Booklet, Zodb, Tastypy)
# Seconds a round: their figures need no more than these rounds, and the run would take an hour.
SLOW_ROUNDS = {"tastypy": 5}


def _aside() -> float:
    """CPU seconds of all threads of this process but the one that runs the rounds."""
    return time.process_time() - time.thread_time()


class Updater:
    """One contestant with its entries loaded and settled."""

    def __init__(self, store: type[Store], path: str, keys: int) -> None:
        self._keys = keys
        self._store = store(path)
        self._store.load(records(keys))
        self._store.settle()
        self._inside = 0.0
        self._start = _aside()

    def round(self, number: int) -> dict[str, float]:
        chosen = distinct(self._keys, SYNC_EVERY, number)
        changes: list[tuple[str, Any]] = [(name(n), record(n, n + (number + 2) * 10**6)) for n in chosen]
        before = _aside()
        spent = timed(self._store.update, changes)
        self._inside += _aside() - before
        return {"update": spent.wall}

    def put_off(self) -> float:
        """Seconds of work done aside between the rounds, or still to be done after them."""
        between = _aside() - self._start - self._inside
        return max(0.0, between) + timed(self._store.settle).wall

    def close(self) -> None:
        self._store.close()


def run(scale: Scale, room: Path) -> Table:
    stores, missing = present(Holdfast, *PEERS)
    rounds = Rounds([title for title in missing if title != OURS])
    lanes = {store.title: Lane(Updater, store, f"{room}/{store.title}", scale.keys) for store in stores}
    try:
        for number in range(scale.short_rounds):
            turn = {
                who: (lambda n, lane=lane: lane.call("round", n))
                for who, lane in lanes.items()
                if number < SLOW_ROUNDS.get(who, scale.short_rounds)
            }
            for who in turn:
                rounds.add(who, turn[who](number))
        later = {who: lane.call("put_off") for who, lane in lanes.items()}
        for lane in lanes.values():
            lane.call("close")
    finally:
        for lane in lanes.values():
            lane.close()

    means: dict[str, float | None] = {}
    for who in lanes:
        series = rounds.series(who, "update")
        means[who] = statistics.mean(series) + later[who] / len(series)
    return Table(
        "update",
        f"Update {SYNC_EVERY:,} of {scale.keys:,} entries and sync",
        _rows(rounds, means, missing),
        [
            "SQLite's automatic checkpoints make apsw alternate between a quick update and a slow one (not so with "
            "them off): its median, and a ratio to it, lies at either level or between. See quartiles and mean.",
            f"{scale.short_rounds} rounds (tastypy {SLOW_ROUNDS['tastypy']}), about 136 B JSON a value.",
            "apsw and sqlite3: WAL, NORMAL; apsw tuned: 64 MB of page cache, checkpoint each 40 MB; lmdb: sync=False; "
            f"shelve: on {_shelf_kind()}; ZODB and shelve wait for the disk at each commit.",
        ],
    )


def _shelf_kind() -> str:
    import dbm

    for kind in ("dbm.sqlite3", "dbm.gnu", "dbm.ndbm"):
        try:
            __import__(kind)
        except ImportError:
            continue
        return kind
    return f"{dbm.__name__}.dumb"


def _rows(rounds: Rounds, means: dict[str, float | None], missing: list[str]) -> list[Row]:
    medians = rounds.figures("update", 1e3)
    rows = [
        rounds.faster(
            "update", "apsw", Bar(6, at_least=True), title="median", unit="ms", scale=1e3, clock="wall"
        )
    ]  # fmt: skip
    ours, raw = means.get(OURS), means.get("apsw")
    ratio = raw / ours if ours and raw else None
    figures: dict[str, float | None] = {
        who: None if mean is None else mean * 1e3 for who, mean in means.items()
    }
    absent: dict[str, float | None] = dict.fromkeys(missing)
    rows.append(
        Row(
            "mean with its share of what was put off", "ms", "wall", {OURS: None} | figures | absent,
            ratio, "apsw ÷", Bar(2.5, at_least=True), ratio,
        )
    )  # fmt: skip
    best = min((figure, who) for who, figure in medians.items() if who != OURS and figure is not None)[1]
    rows.append(
        rounds.slower(
            "update", best, Bar(2), title="median beside the best peer", unit="ms", scale=1e3, clock="wall"
        )
    )
    if "tastypy" in medians and medians["tastypy"] is not None:
        bar = Bar(300, at_least=True)
        rows.append(
            rounds.faster(
                "update", "tastypy", bar, title="median beside tastypy", unit="ms", scale=1e3, clock="wall"
            )
        )
    return rows
