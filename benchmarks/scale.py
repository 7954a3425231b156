"""How much is measured, and the values it is measured with.

Every stored value really differs from the one before it: SQLite skips an update that writes the same bytes.
"""

import random
from dataclasses import dataclass
from typing import Any

SYNC_EVERY = 1_000


@dataclass(frozen=True)
class Scale:
    """The sizes of one run."""

    quick: bool
    keys: int  # entries in a store
    rounds: int  # rounds of a comparison that takes seconds a round
    short_rounds: int  # rounds of one that takes milliseconds
    hot_keys: int
    hot_passes: int  # over all hot keys, a round
    reads: int  # cold reads a round
    seconds: float  # that processes contend with each other, a round
    changes: int  # that another process is to see, a round
    curve: tuple[int, ...]  # entries, for memory


FULL = Scale(
    quick=False,
    keys=100_000,
    rounds=7,
    short_rounds=60,
    hot_keys=1_000,
    hot_passes=200,
    reads=20_000,
    seconds=1.5,
    changes=500,
    curve=(10_000, 30_000, 100_000, 300_000, 1_000_000),
)
# For a smoke test: every line of the benchmarks runs, and the figures mean nothing.
QUICK = Scale(
    quick=True,
    keys=2_000,
    rounds=2,
    short_rounds=3,
    hot_keys=100,
    hot_passes=2,
    reads=200,
    seconds=0.1,
    changes=10,
    curve=(500, 1_000),
)


def name(n: int) -> str:
    return f"page-{n:07d}"


def record(n: int, salt: int) -> dict[str, Any]:
    """A nested value, about 136 bytes as JSON; another `salt` gives another value.

    Made of literals and numbers: formatting text would cost more than a dict's whole work, and hide it.
    """
    return {
        "id": n,
        "title": "A page of some title",
        "links": ["/about", "/contact", "/map"],
        "stats": {"n": salt, "score": salt / 8},
        "seen": True,
    }


def records(count: int, salt: int = 1) -> list[tuple[str, dict[str, Any]]]:
    return [(name(n), record(n, n * 7919 + salt)) for n in range(count)]


def drawn(count: int, most: int, seed: int) -> list[int]:
    """`most` numbers below `count`, with repetitions, the same for each contestant of a round."""
    draw = random.Random(seed)
    return [draw.randrange(count) for _ in range(most)]


def distinct(count: int, most: int, seed: int) -> list[int]:
    """`most` different numbers below `count` in random order."""
    return random.Random(seed).sample(range(count), min(most, count))
