"""Rounds, ratios, bars and tables. Nothing here knows what is measured.

A comparison is a list of rounds; a round holds one sample (a mapping of measurement to figure) of each
contestant. Rows are computed from it: a figure is the median over rounds, a ratio the median of the ratios
of each round.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "holdfast"
Sample = Mapping[str, float]


@dataclass(frozen=True)
class Spent:
    """Seconds of the wall clock and of this process's CPU (all its threads, user and system)."""

    wall: float
    cpu: float


def timed(work: Callable[..., Any], *given: Any) -> Spent:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    work(*given)
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


@dataclass(frozen=True)
class Bar:
    """What is to be reached: a ratio (`×`), or a figure in the unit of its row."""

    limit: float
    unit: str = "×"
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{'×' if self.unit == '×' else ' ' + self.unit}"


@dataclass(frozen=True)
class Row:
    """One line of a table. `figures` has a contestant's figure, or None for one that is not installed."""

    measurement: str
    unit: str
    clock: str  # "CPU", "wall", "memory"
    figures: dict[str, float | None]
    ratio: float | None = None
    ratio_of: str = ""  # what the ratio is taken against
    bar: Bar | None = None
    judged: float | None = None  # the value that the bar is about: the ratio, or a figure
    quartiles: tuple[float, float] | None = None  # of the ratios of the rounds

    @property
    def verdict(self) -> str:
        """`on the edge` when the bar lies between the quartiles: another run may well say the opposite."""
        if self.bar is None or self.judged is None:
            return "–"
        if self.quartiles and self.quartiles[0] < self.bar.limit < self.quartiles[1]:
            return "on the edge"
        return "met" if self.bar.met(self.judged) else "NOT MET"


@dataclass
class Table:
    group: str
    title: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    picture: str = ""

    @property
    def contestants(self) -> list[str]:
        names = dict.fromkeys(name for row in self.rows for name in row.figures)
        return [OURS, *(name for name in names if name != OURS)]


class Rounds:
    """Samples of several contestants, collected in turn.

    `missing` names contestants that are not installed; they have a column and no figure.
    """

    def __init__(self, missing: Sequence[str] = ()) -> None:
        self._samples: dict[str, list[Sample]] = {}
        self._missing = tuple(missing)

    def add(self, who: str, sample: Sample) -> None:
        self._samples.setdefault(who, []).append(sample)

    def run(self, rounds: int, contestants: Mapping[str, Callable[[int], Sample]]) -> None:
        """`rounds` times each contestant in turn; each is given the number of the round.

        The order rotates, so that no contestant always follows the same one.
        """
        names = list(contestants)
        for number in range(rounds):
            turn = number % len(names)
            for who in names[turn:] + names[:turn]:
                self.add(who, contestants[who](number))

    def series(self, who: str, what: str) -> list[float]:
        return [sample[what] for sample in self._samples.get(who, ()) if what in sample]

    def figure(self, who: str, what: str) -> float | None:
        series = self.series(who, what)
        return statistics.median(series) if series else None

    def figures(self, what: str, scale: float = 1.0) -> dict[str, float | None]:
        """Each contestant that has this measurement, `scale` times; None for those not installed."""
        found: dict[str, float | None] = {OURS: None}
        for who in self._samples:
            if (figure := self.figure(who, what)) is not None:
                found[who] = figure * scale
        return found | dict.fromkeys(self._missing)

    def ratios(self, over: tuple[str, str], under: tuple[str, str]) -> list[float]:
        """(who, what) / (who, what) of each round."""
        pairs = zip(self.series(*over), self.series(*under), strict=False)
        return [a / b for a, b in pairs if b > 0]

    def ratio(self, over: tuple[str, str], under: tuple[str, str]) -> float | None:
        """Median over rounds of (who, what) / (who, what)."""
        ratios = self.ratios(over, under)
        return statistics.median(ratios) if ratios else None

    def worst(self, what: str, scale: float = 1.0) -> dict[str, float | None]:
        """As `figures`, of each contestant's highest round instead of its median one."""
        return {
            who: None if figure is None else max(self.series(who, what)) * scale
            for who, figure in self.figures(what).items()
        }

    def slower(
        self, what: str, peer: str, bar: Bar | None, *, title: str, unit: str, scale: float, clock: str
    ) -> Row:
        """A row whose ratio says how many times our figure is that of `peer`."""
        return self._row(what, (OURS, what), (peer, what), f"÷ {peer}", bar, title, unit, scale, clock)

    def faster(
        self, what: str, peer: str, bar: Bar | None, *, title: str, unit: str, scale: float, clock: str
    ) -> Row:
        """A row whose ratio says how many times the figure of `peer` is ours."""
        return self._row(what, (peer, what), (OURS, what), f"{peer} ÷", bar, title, unit, scale, clock)

    def _row(
        self,
        what: str,
        over: tuple[str, str],
        under: tuple[str, str],
        ratio_of: str,
        bar: Bar | None,
        title: str,
        unit: str,
        scale: float,
        clock: str,
    ) -> Row:
        ratio = self.ratio(over, under)
        quartiles = spread(self.ratios(over, under))
        return Row(title, unit, clock, self.figures(what, scale), ratio, ratio_of, bar, ratio, quartiles)


def absolute(title: str, unit: str, clock: str, figures: dict[str, float | None], bar: Bar | None) -> Row:
    """A row whose bar is about our own figure."""
    return Row(title, unit, clock, {OURS: None} | figures, bar=bar, judged=figures.get(OURS))


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """The lower and upper quartile; None of too few to have any."""
    if len(values) < 4:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def short(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.2f}" if size >= 1 else f"{value:.2g}"


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
