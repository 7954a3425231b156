"""Memory over the number of entries: a fresh process opens a hold and reads every value once, at random.

Keys are computed as they are needed (a walk by a step that shares no factor with N): a list of a million keys
would be counted as the library's. The highest resident memory of the process, less what it had before opening.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import OURS, Bar, Row, Table, absolute
from benchmarks.lane import Lane, memory_bytes
from benchmarks.peers import Apsw, Holdfast, Store, imported, installed
from benchmarks.scale import Scale, name, record

KEY_BYTES = 40
CONSTANT_BYTES = 32_000_000  # SQLite with its page cache, what the allocator keeps, the code that runs first
CACHES = {"default": 64_000_000, "small": 8_000_000}
CHUNK = 50_000
WIDTH = 60


def walk(count: int) -> Iterator[int]:
    """All numbers below `count`, each once, far from their neighbours."""
    step = int(count * 0.618) | 1
    while math.gcd(step, count) != 1:
        step += 2
    at = 0
    for _ in range(count):
        at = (at + step) % count
        yield at


class Filler:
    def __init__(self, store: type[Holdfast] | type[Apsw], path: str, count: int) -> None:
        made = store(path)
        for first in range(0, count, CHUNK):
            made.load([(name(n), record(n, n)) for n in range(first, min(count, first + CHUNK))])
        made.close()


class AllReader:
    def __init__(self, store: type[Store]) -> None:
        imported(store)

    def hold(self, path: str, count: int, cache_bytes: int) -> float:
        before = memory_bytes()
        store = Holdfast(path, cache_bytes=cache_bytes)
        return self._grown(store, count, before)

    def raw(self, path: str, count: int) -> float:
        before = memory_bytes()
        return self._grown(Apsw(path), count, before)

    def _grown(self, store: Holdfast | Apsw, count: int, before: int) -> float:
        get = store.get
        for n in walk(count):
            get(name(n))["id"]
        grown = memory_bytes("VmHWM") - before
        store.close()
        return float(grown)


def run(scale: Scale, room: Path) -> Table:
    rows: list[Row] = []
    curves: dict[str, list[float]] = {}
    for count in scale.curve:
        figures: dict[str, float | None] = {}
        if installed(Apsw):
            Lane(Filler, Apsw, f"{room}/apsw-{count}", count).close()
            with Lane(AllReader, Apsw) as lane:
                figures["apsw"] = lane.call("raw", f"{room}/apsw-{count}", count) / 1e6
        path = f"{room}/{count}.hold"
        if installed(Holdfast):
            Lane(Filler, Holdfast, path, count).close()
        for kind, cache_bytes in CACHES.items():
            bar = Bar((cache_bytes + KEY_BYTES * count + CONSTANT_BYTES) / 1e6, "MB")
            ours = None
            if installed(Holdfast):
                with Lane(AllReader, Holdfast) as lane:
                    ours = lane.call("hold", path, count, cache_bytes) / 1e6
                curves.setdefault(kind, []).append(ours)
            title = f"all of {count:,} entries read, cache_bytes={cache_bytes:,} ({kind})"
            rows.append(absolute(title, "MB", "memory", {OURS: ours} | figures, bar))
    return Table(
        "memory",
        "Memory over the number of entries",
        rows,
        [
            f"Bar: cache_bytes + {KEY_BYTES} B a key + a constant of {CONSTANT_BYTES / 1e6:.0f} MB. The highest "
            "resident memory while every value is read once at random, less what the process had before opening.",
            "apsw holds nothing but its page cache of 2 MB: what is left is the process itself.",
        ],
        _picture(scale.curve, curves),
    )


def _picture(counts: tuple[int, ...], curves: dict[str, list[float]]) -> str:
    """A bar for each point, `WIDTH` characters at the highest allowance."""
    if not curves:
        return ""
    most = max(max(curve) for curve in curves.values())
    lines = []
    for kind, curve in curves.items():
        lines.append(f"cache_bytes={CACHES[kind]:,}")
        for count, grown in zip(counts, curve, strict=True):
            lines.append(f"{count:>10,} {'█' * max(1, round(grown / most * WIDTH))} {grown:.0f} MB")
    return "\n".join(lines)
