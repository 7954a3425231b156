"""The long run: 100,000 random overwrites of 100,000 keys, a sync each 1,000.

Each overwrite makes a new nested value, for every contestant. Keys are drawn with repetition: about 63,000
different ones a round. Holdfast pays for its folding: what a helper thread did meanwhile is in its CPU time, and
the round ends with `hold.fold()`, the clock running. Each contestant has a process of its own.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Bar, Rounds, Table, absolute, timed
from benchmarks.lane import Lane
from benchmarks.peers import Apsw, Holdfast, Plain, codec, present
from benchmarks.scale import SYNC_EVERY, Scale, drawn, name, record, records

Chosen = list[tuple[str, int]]  # key and number of each entry to overwrite


class Overwriter:
    """One contestant with its entries loaded and settled."""

    def __init__(self, path: str, keys: int) -> None:
        self._keys = keys
        self._names = [name(n) for n in range(keys)]
        self.store = self.make(path)
        self.store.load(records(keys))
        self.store.settle()

    def make(self, path: str) -> Any:
        raise NotImplementedError

    def loop(self, chosen: Chosen, salt: int) -> None:
        """The loop itself, as a user would write it."""
        raise NotImplementedError

    def paused(self, chosen: Chosen, salt: int) -> float:
        """The same loop with a clock around each call; seconds of the longest."""
        return 0.0

    def _chosen(self, seed: int) -> Chosen:
        """The overwrites of a round, keys made beforehand: what they cost is not the store's."""
        names = self._names
        return [(names[n], n) for n in drawn(self._keys, self._keys, seed)]

    def round(self, number: int) -> dict[str, float]:
        spent = timed(self.loop, self._chosen(number), number * self._keys)
        return {"wall": spent.wall / self._keys, "cpu": spent.cpu / self._keys}

    def pause(self, number: int) -> dict[str, float]:
        return {"pause": self.paused(self._chosen(-number - 1), (number + 1) * 10**7)}

    def close(self) -> None:
        self.store.close()


class OverwriteDict(Overwriter):
    def make(self, path: str) -> Any:
        return Plain(path)

    def loop(self, chosen: Chosen, salt: int) -> None:
        table = self.store.dict
        for done, (key, n) in enumerate(chosen):
            table[key] = record(n, salt + done)
            if done % SYNC_EVERY == SYNC_EVERY - 1:
                pass  # a dict has nothing to sync


class OverwriteHold(Overwriter):
    def make(self, path: str) -> Any:
        return Holdfast(path)

    def loop(self, chosen: Chosen, salt: int) -> None:
        table = self.store.dict
        for done, (key, n) in enumerate(chosen):
            table[key] = record(n, salt + done)
            if done % SYNC_EVERY == SYNC_EVERY - 1:
                table.sync()
        self.store.settle()

    def paused(self, chosen: Chosen, salt: int) -> float:
        table, now, longest = self.store.dict, time.perf_counter, 0.0
        for done, (key, n) in enumerate(chosen):
            value = record(n, salt + done)
            start = now()
            table[key] = value
            longest = max(longest, now() - start)
            if done % SYNC_EVERY == SYNC_EVERY - 1:
                start = now()
                table.sync()
                longest = max(longest, now() - start)
        return longest


class OverwriteApsw(Overwriter):
    def make(self, path: str) -> Any:
        self._encode = codec()[0]
        return Apsw(path)

    def loop(self, chosen: Chosen, salt: int) -> None:
        encode, rows = self._encode, []
        for done, (key, n) in enumerate(chosen):
            rows.append((key, encode(record(n, salt + done)).decode()))
            if done % SYNC_EVERY == SYNC_EVERY - 1:
                self.store.upsert(rows)
                rows.clear()

    def paused(self, chosen: Chosen, salt: int) -> float:
        now, longest, rows = time.perf_counter, 0.0, []
        for done, (key, n) in enumerate(chosen):
            rows.append((key, self._encode(record(n, salt + done)).decode()))
            if done % SYNC_EVERY == SYNC_EVERY - 1:
                start = now()
                self.store.upsert(rows)
                longest = max(longest, now() - start)
                rows.clear()
        return longest


OVERWRITERS = {Holdfast: OverwriteHold, Apsw: OverwriteApsw}


def run(scale: Scale, room: Path) -> Table:
    stores, missing = present(*OVERWRITERS)
    makers: dict[str, type[Overwriter]] = {store.title: OVERWRITERS[store] for store in stores}
    makers["dict"] = OverwriteDict
    rounds, pauses = Rounds([title for title in missing if title != OURS]), Rounds()
    lanes = {who: Lane(maker, f"{room}/{who}", scale.keys) for who, maker in makers.items()}
    try:
        rounds.run(
            scale.rounds, {who: (lambda n, lane=lane: lane.call("round", n)) for who, lane in lanes.items()}
        )
        watched = {who: lane for who, lane in lanes.items() if who != "dict"}
        pauses.run(
            scale.rounds, {who: (lambda n, lane=lane: lane.call("pause", n)) for who, lane in watched.items()}
        )
        for lane in lanes.values():
            lane.call("close")
    finally:
        for lane in lanes.values():
            lane.close()

    rows = []
    for clock in ("CPU", "wall"):
        given: Any = {
            "unit": "µs",
            "scale": 1e6,
            "clock": clock,
            "title": "an overwrite, sync and folding included",
        }
        rows.append(rounds.slower(clock.lower(), "dict", Bar(8.5), **given))
        if Apsw in stores:
            rows.append(rounds.faster(clock.lower(), "apsw", Bar(3, at_least=True), **given))
    worst: dict[str, float | None] = {who: max(pauses.series(who, "pause")) * 1e3 for who in watched}
    rows.append(absolute("longest single call, worst of all rounds", "ms", "wall", worst, Bar(50, "ms")))
    usual = {who: None if figure is None else figure for who, figure in pauses.figures("pause", 1e3).items()}
    rows.append(absolute("longest single call, median round", "ms", "wall", usual, None))
    return Table(
        "overwrite",
        f"Overwrite: {scale.keys:,} random overwrites of {scale.keys:,} keys, a sync each {SYNC_EVERY:,}",
        rows,
        [
            f"{scale.rounds} rounds; a new nested value of about 136 B JSON each; apsw: WAL, NORMAL, "
            f"one transaction each {SYNC_EVERY:,}.",
            "The longest call is of rounds of their own, with a clock around each assignment and each sync.",
        ],
    )
