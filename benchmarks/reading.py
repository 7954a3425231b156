"""Loading all, iterating over all, and reading what is not in memory, beside raw apsw with the same codec.

A fresh process for each measurement of each round, so that nothing is cached but the system's file pages.
"""

from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Bar, Rounds, Table, absolute, timed
from benchmarks.lane import Lane, memory_bytes
from benchmarks.peers import Apsw, Holdfast, Store, imported, present
from benchmarks.scale import Scale, distinct, name, records

# Of 100,000 entries, 13.5 MB of text (90 MB as objects): what SQLite keeps of the pages, 16 MB, and no values.
ITERATION_MB = 18


class Reader:
    """A fresh process that has imported everything and opened nothing."""

    def __init__(self, store: type[Store], path: str) -> None:
        self._make, self._path = store, path
        imported(store)

    def load(self, keys: int) -> dict[str, float]:
        """Open, store all, close with everything folded."""
        items = records(keys)

        def whole() -> None:
            store = self._make(self._path)
            store.load(items)
            store.close()

        spent = timed(whole)
        return {"load wall": spent.wall / keys, "load cpu": spent.cpu / keys}

    def iterate(self, keys: int) -> dict[str, float]:
        store = self._make(self._path)
        store.get(name(0))["id"]
        before, seen = memory_bytes(), 0

        def whole() -> None:
            nonlocal seen
            for value in store.values():
                value["id"]
                seen += 1

        spent = timed(whole)
        grown = memory_bytes() - before
        assert seen == keys, f"iterated over {seen} of {keys}"
        store.close()
        return {"iterate": spent.cpu / keys, "grown": float(grown)}

    def read(self, keys: int, most: int, seed: int) -> dict[str, float]:
        chosen = [name(n) for n in distinct(keys, most, seed)]
        store = self._make(self._path)

        def whole() -> None:
            get = store.get
            for key in chosen:
                get(key)["id"]

        spent = timed(whole)
        store.close()
        return {"read": spent.cpu / len(chosen)}


def run(scale: Scale, room: Path) -> Table:
    stores, missing = present(Holdfast, Apsw)
    rounds = Rounds([title for title in missing if title != OURS])

    def turn(store: type[Store]) -> Any:
        def one(number: int) -> dict[str, float]:
            path, sample = f"{room}/{store.title}-{number}", {}
            for step, given in (
                ("load", (scale.keys,)),
                ("iterate", (scale.keys,)),
                ("read", (scale.keys, scale.reads, number)),
            ):
                with Lane(Reader, store, path) as lane:
                    sample |= lane.call(step, *given)
            return sample

        return one

    rounds.run(scale.rounds, {store.title: turn(store) for store in stores})

    def slower(what: str, title: str, limit: float, clock: str = "CPU") -> Any:
        return rounds.slower(what, "apsw", Bar(limit), title=title, unit="µs", scale=1e6, clock=clock)

    return Table(
        "reading",
        f"Loading, iterating, cold reading: {scale.keys:,} entries, raw apsw with the same codec",
        [
            slower("load cpu", "bulk load: update() + sync + close, an entry", 1.6),
            slower("load wall", "bulk load: update() + sync + close, an entry", 1.6, "wall"),
            slower("iterate", "iterate over all values, an entry", 1.6),
            slower("read", "cold read of a random key", 1.5),
            absolute(
                "memory grown by iterating",
                "MB",
                "memory",
                rounds.figures("grown", 1e-6),
                Bar(ITERATION_MB, "MB"),
            ),
        ],
        [
            f"{scale.rounds} rounds, a fresh process for each measurement; {scale.reads:,} cold reads a round; "
            'each value read is touched: value["id"].',
            "Keys ascend in the order of insertion.",
            "apsw: one transaction, executemany of upserts; SELECT in the order of rowid; SELECT by key.",
        ],
    )
