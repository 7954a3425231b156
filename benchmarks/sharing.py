"""Processes that share: exact increments, who waits for how long, and how soon a change is seen elsewhere."""

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Bar, Rounds, Row, Table, absolute, percentile, spread, timed
from benchmarks.lane import SPAWN, Lane
from benchmarks.peers import Diskcache, Holdfast, installed
from benchmarks.scale import Scale, name

PROCESSES = 4
TOGETHER = 64
KEYS = [f"n{n}" for n in range(16)]  # all processes increment the same ones
MANAGER = "Manager().dict"
SPACING_SECONDS = 0.002
END = -1


class Incrementer:
    """One of the processes; `run` increments until the time is over."""

    def __init__(self, *given: Any) -> None:
        raise NotImplementedError

    def step(self, key: str) -> None:
        raise NotImplementedError

    def steps(self, keys: list[str]) -> None:
        """Several at once, where the contestant can; else one by one."""
        for key in keys:
            self.step(key)

    def run(self, start: float, seconds: float, together: int) -> tuple[int, float]:
        """(increments done, seconds of the longest single step). `start` is in time.monotonic()."""
        now, done, longest = time.monotonic, 0, 0.0
        time.sleep(max(0.0, start - now()))
        end, before = start + seconds, now()
        while before < end:
            if together == 1:
                self.step(KEYS[done % len(KEYS)])
            else:
                self.steps([KEYS[(done + i) % len(KEYS)] for i in range(together)])
            after = now()
            longest = max(longest, after - before)
            before, done = after, done + together
        return done, longest


class HoldIncrementer(Incrementer):
    def __init__(self, path: str) -> None:
        self._store = Holdfast(path, shared=True)

    def step(self, key: str) -> None:
        self._store.dict.set[key] += 1

    def steps(self, keys: list[str]) -> None:
        table = self._store.dict
        with self._store.hold.transaction():
            for key in keys:
                table.set[key] += 1

    def fill(self) -> None:
        for key in KEYS:
            self._store.dict[key] = 0

    def total(self) -> int:
        return sum(self._store.dict[key] for key in KEYS)


class ManagerIncrementer(Incrementer):
    def __init__(self, table: Any, lock: Any) -> None:
        self._table, self._lock = table, lock

    def step(self, key: str) -> None:
        with self._lock:
            self._table[key] += 1

    def fill(self) -> None:
        self._table.update(dict.fromkeys(KEYS, 0))

    def total(self) -> int:
        return sum(self._table[key] for key in KEYS)


class DiskcacheIncrementer(Incrementer):
    def __init__(self, path: str) -> None:
        self._index = Diskcache(path).index

    def step(self, key: str) -> None:
        with self._index.transact():
            self._index[key] += 1

    def steps(self, keys: list[str]) -> None:
        with self._index.transact():
            for key in keys:
                self._index[key] += 1

    def fill(self) -> None:
        self._index.update(dict.fromkeys(KEYS, 0))

    def total(self) -> int:
        return sum(self._index[key] for key in KEYS)


class Contest:
    """Four processes of one contestant, kept over the rounds."""

    def __init__(self, factory: type[Incrementer], *given: Any) -> None:
        self._lanes = [Lane(factory, *given)]
        self._lanes[0].call("fill")
        self._lanes += [Lane(factory, *given) for _ in range(PROCESSES - 1)]

    def round(self, seconds: float, together: int) -> dict[str, float]:
        """Increments a second, busiest ÷ slowest, longest step. Raises RuntimeError when one was lost."""
        before: int = self._lanes[0].call("total")
        start = time.monotonic() + 0.1
        for lane in self._lanes:
            lane.begin("run", start, seconds, together)
        counts, stalls = zip(*(lane.answer() for lane in self._lanes), strict=True)
        took = time.monotonic() - start
        if (found := self._lanes[-1].call("total") - before) != sum(counts):
            raise RuntimeError(f"{sum(counts)} increments were done and {found} are there")
        suffix = "" if together == 1 else f" by {together}"
        return {
            f"rate{suffix}": sum(counts) / took,
            f"spread{suffix}": max(counts) / max(1, min(counts)),
            f"stall{suffix}": max(stalls),
        }

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()


class Writer:
    """Writes the time at which it writes."""

    def __init__(self, path: str, *seen: Any) -> None:
        self._store = Holdfast(path, shared=True)
        self._store.dict["k"] = 0
        self._seen = seen

    def run(self, changes: int) -> None:
        table = self._store.dict
        while not all(event.is_set() for event in self._seen):  # nobody is measured before all look
            table["k"] = time.monotonic_ns()
            time.sleep(SPACING_SECONDS)
        for _ in range(changes):
            table["k"] = time.monotonic_ns()
            time.sleep(SPACING_SECONDS)
        table["k"] = END


class Onlooker:
    """Waits for each change in one of two ways; gives the nanoseconds from before the write to having its value."""

    def __init__(self, path: str, seen: Any) -> None:
        self._store = Holdfast(path, shared=True)
        self._seen = seen

    def watch(self, changes: int) -> list[int]:
        """Blocked in `hold.watch()` until something changes, then the value is read."""
        delays, table = [], self._store.dict
        for _ in self._store.hold.watch("d"):
            written = table["k"]
            if written == END:
                break
            delays.append(time.monotonic_ns() - written)
            self._seen.set()
        return delays[-changes:]

    def spin(self, changes: int) -> list[int]:
        """Reading it over and over."""
        delays, table, last = [], self._store.dict, self._store.dict["k"]
        while True:
            written = table["k"]
            if written == last:
                continue
            if written == END:
                break
            delays.append(time.monotonic_ns() - written)
            last = written
            self._seen.set()
        return delays[-changes:]


def _seen(room: Path, number: int, way: str, changes: int) -> dict[str, float]:
    path, event = f"{room}/seen-{way}-{number}.hold", SPAWN.Event()
    with Lane(Writer, path, event) as writer, Lane(Onlooker, path, event) as onlooker:
        onlooker.begin(way, changes)
        writer.begin("run", changes)
        writer.answer()
        delays: list[int] = onlooker.answer()
    return {f"{way} p50": statistics.median(delays), f"{way} p99": percentile(delays, 0.99)}


def _get(table: Any, keys: list[str], passes: int) -> None:
    for _ in range(passes):
        for key in keys:
            table[key]


class Freshness:
    """What a shared get costs more than an unshared one, in one process."""

    def __init__(self, room: str, keys: int) -> None:
        self._keys = [name(n) for n in range(keys)]
        self._tables = {}
        for shared in (False, True):
            table = Holdfast(f"{room}/freshness-{shared}.hold", shared=shared).dict
            table.update(dict.fromkeys(self._keys, 1))
            table.sync()
            self._tables[shared] = table

    def round(self, passes: int) -> dict[str, float]:
        cost = {s: timed(_get, t, self._keys, passes).cpu for s, t in self._tables.items()}
        return {"freshness": (cost[True] - cost[False]) / (passes * len(self._keys))}


def run(scale: Scale, room: Path) -> Table:
    ours = installed(Holdfast)
    rounds = Rounds([] if installed(Diskcache) else [Diskcache.title])
    with SPAWN.Manager() as manager:
        table, lock = (
            manager.dict(),
            SPAWN.Lock(),
        )  # kept here: the manager drops what its maker no longer refers to
        contests = {MANAGER: Contest(ManagerIncrementer, table, lock)}
        if installed(Diskcache):
            contests[Diskcache.title] = Contest(DiskcacheIncrementer, f"{room}/diskcache")
        if ours:
            contests[OURS] = Contest(HoldIncrementer, f"{room}/increments.hold")

        def turn(who: str) -> Any:
            def one(number: int) -> dict[str, float]:
                sample = contests[who].round(scale.seconds, 1)
                if who != MANAGER:  # which has no transactions
                    sample |= contests[who].round(scale.seconds, TOGETHER)
                else:
                    sample |= {f"{what} by {TOGETHER}": sample[what] for what in ("rate", "spread", "stall")}
                return sample

            return one

        try:
            rounds.run(scale.rounds, {who: turn(who) for who in contests})
        finally:
            for contest in contests.values():
                contest.close()
    if ours:
        for number in range(min(3, scale.rounds)):
            sample: dict[str, float] = {}
            for way in ("watch", "spin"):
                sample |= _seen(room, number, way, scale.changes)
            rounds.add("seen", sample)
        with Lane(Freshness, str(room), scale.hot_keys) as lane:
            for _ in range(scale.rounds):
                rounds.add("fresh", lane.call("round", scale.hot_passes))
    return Table(
        "sharing",
        f"Sharing: {PROCESSES} processes, every increment exact",
        [*_increments(rounds), *_visibility(rounds)],
        [
            f"{scale.rounds} rounds of {scale.seconds:g} s; {len(KEYS)} keys that all processes increment; the sum is "
            "checked after each round.",
            f"{MANAGER} under a multiprocessing.Lock has no transactions: its figure one by one stands in both rows.",
            f"Seen: from just before the write in one process, one each {SPACING_SECONDS * 1e3:g} ms, to having the "
            f"value in another; {scale.changes} changes, median of {min(3, scale.rounds)} runs.",
        ],
    )


def _increments(rounds: Rounds) -> list[Row]:
    rows = []
    for suffix, least in (("", 2.5), (f" by {TOGETHER}", 25)):
        how = f"in transactions of {TOGETHER}" if suffix else "one by one"
        pair = ((OURS, f"rate{suffix}"), (MANAGER, f"rate{suffix}"))
        ratio, quartiles = rounds.ratio(*pair), spread(rounds.ratios(*pair))
        rows.append(
            Row(
                f"increments, {how}", "k/s", "wall", rounds.figures(f"rate{suffix}", 1e-3),
                ratio, f"÷ {MANAGER}", Bar(least, at_least=True), ratio, quartiles,
            )
        )  # fmt: skip
        uneven = rounds.worst(f"spread{suffix}")
        rows.append(absolute(f"busiest ÷ slowest process, worst round, {how}", "×", "wall", uneven, Bar(2)))
        stalls = rounds.worst(f"stall{suffix}", 1e3)
        rows.append(absolute(f"longest stall of all rounds, {how}", "ms", "wall", stalls, Bar(50, "ms")))
    return rows


def _visibility(rounds: Rounds) -> list[Row]:
    def only(who: str, what: str, scale: float) -> dict[str, float | None]:
        figure = rounds.figure(who, what)
        return {OURS: None if figure is None else figure * scale}

    rows = []
    for way, title in (("watch", "blocked in hold.watch()"), ("spin", "reading d[k] over and over")):
        rows.append(
            absolute(
                f"seen elsewhere, {title}, p50",
                "ms",
                "wall",
                only("seen", f"{way} p50", 1e-6),
                Bar(0.2, "ms"),
            )
        )
        rows.append(
            absolute(f"seen elsewhere, {title}, p99", "ms", "wall", only("seen", f"{way} p99", 1e-6), None)
        )
    rows.append(
        absolute(
            "freshness check: shared get less unshared get",
            "µs",
            "CPU",
            only("fresh", "freshness", 1e6),
            Bar(0.2, "µs"),
        )
    )
    return rows
