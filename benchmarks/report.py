"""Tables for the terminal and for RESULTS.md, and what they were measured on."""

import datetime
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, Row, Table, short

RESULTS = Path(__file__).with_name("RESULTS.md")
DISTRIBUTIONS = (
    "holdfast", "apsw", "msgspec", "orjson", "lmdb", "rocksdict", "diskcache", "sqlitedict", "booklet", "ZODB",
)  # fmt: skip


def machine() -> str:
    """Cores, system, Python and the versions of all that took part."""
    versions = []
    for name in DISTRIBUTIONS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # shown as not installed in the table itself
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}; {', '.join(versions)}"
    )


def header(table: Table) -> list[str]:
    return ["measurement", "unit", "clock", *table.contestants, "ratio", "bar", ""]


def cells(row: Row, contestants: list[str]) -> list[str]:
    def figure(who: str) -> str:
        if who not in row.figures:
            return ""
        if who != OURS and row.figures[who] is None:
            return "not installed"
        return short(row.figures[who])

    ratio = "" if row.ratio is None else f"{short(row.ratio)}× ({row.ratio_of})"
    if row.quartiles:
        ratio += f" {short(row.quartiles[0])}–{short(row.quartiles[1])}"
    bar = "" if row.bar is None else str(row.bar)
    return [row.measurement, row.unit, row.clock, *map(figure, contestants), ratio, bar, row.verdict]


def markdown(table: Table) -> str:
    heads = header(table)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cells(row, table.contestants)) + " |" for row in table.rows]
    lines += ["", *(f"- {remark}" for remark in table.remarks)]
    if table.picture:
        lines += ["", "```", table.picture, "```"]
    return "\n".join(lines).rstrip() + "\n"


def as_plain(table: Table) -> dict[str, Any]:
    """The table as values that JSON can hold."""
    return {
        "group": table.group,
        "rows": [
            {
                "measurement": row.measurement,
                "unit": row.unit,
                "clock": row.clock,
                "figures": row.figures,
                "ratio": row.ratio,
                "quartiles": row.quartiles,
                "bar": None if row.bar is None else str(row.bar),
                "verdict": row.verdict,
            }
            for row in table.rows
        ],
    }


def show(table: Table) -> None:
    """In the terminal: by rich where it is installed and somebody watches, else as markdown."""
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table as Grid
    except ImportError:
        print(f"\n## {table.title}\n\n{markdown(table)}")
        return
    # Into a pipe rich would take 80 columns and break every cell.
    console = Console(width=None if sys.stdout.isatty() else 220, highlight=False)
    grid = Grid(title=table.title, title_justify="left")
    for number, head in enumerate(header(table)):
        grid.add_column(head, justify="left" if number < 3 else "right")
    colours = {"met": "green", "NOT MET": "bold red", "on the edge": "yellow"}
    for row in table.rows:
        *most, verdict = cells(row, table.contestants)
        grid.add_row(
            *map(escape, most), f"[{colours[verdict]}]{verdict}[/]" if verdict in colours else verdict
        )
    console.print(grid)
    for remark in table.remarks:
        console.print(f"  {remark}", style="dim", markup=False)
    if table.picture:
        console.print(table.picture, markup=False)


def write(table: Table, command: str, path: Path = RESULTS) -> None:
    """Put the table between the markers of its group, which must be there."""
    text = path.read_text(encoding="utf-8")
    first, last = f"<!-- {table.group}: begin -->", f"<!-- {table.group}: end -->"
    made = f"Made by `{command}` on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: {machine()}."
    block = f"{first}\n## {table.title}\n\n{made}\n\n{markdown(table)}{last}"
    new, found = re.subn(
        re.escape(first) + ".*?" + re.escape(last), lambda _: block, text, count=1, flags=re.DOTALL
    )
    if not found:
        raise SystemExit(f"{path} has no markers {first} … {last}: add them where the table is to stand")
    path.write_text(new, encoding="utf-8")
