"""What a person sees of the demo. Written for 80 columns, without a terminal too."""

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from holdfast.cli.demo.crawl import Plan
from holdfast.structures.tracker import Tracker

WIDTH = 80
MOST_ROWS = 10
NAMES_SHOWN = 4


class State(NamedTuple):
    """How far the crawl is, read from the hold."""

    done: int
    known: int
    leases: dict[str, str]  # a task that was claimed and is not done -> its worker
    pids: dict[str, int]
    killed: frozenset[str]  # workers


class Stage:
    """Tells the story as it happens: a headline an act, and while one lasts, who reads what."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._act = 0
        self._live: Live | None = None

    def _say(self, headline: str, *paragraphs: str) -> None:
        self._act += 1
        self.console.print(Text(f"\n{self._act}  {headline}", style="bold"))
        self._add(*paragraphs)

    def _add(self, *paragraphs: str) -> None:
        for paragraph in paragraphs:
            self.console.print(Text(_wrapped(paragraph, indent=3)), soft_wrap=True)

    # -- the acts ---------------------------------------------------------------------------------------------

    def begins(self, path: str, first: str, plan: Plan) -> None:
        self.console.print(Text("A crawl that is killed twice", style="bold"))
        self._add(
            "",
            f"{plan.workers} processes read the sources of Python's standard library, beginning with {first}. Each "
            "claims a module, parses it, notes what it found in a dict that all of them share, and adds the "
            "modules that it imports as new tasks. All they have in common is one file:",
            path,
            f"Each waits {plan.pace_seconds * 1000:.0f} ms a module, as a crawler of the web would, so that there is "
            "time to look on.",
        )

    def started(self, pid: int, plan: Plan) -> None:
        self._say("The crawl runs", f"process {pid}, with {plan.workers} worker processes")

    def worker_killed(self, task: str, worker: str, state: State) -> None:
        self._say(
            f"kill -9 {state.pids[worker]}: a worker dies",
            f"Worker {worker} was reading {task}, and got no chance to say so. {state.done} of {state.known} known "
            "modules are done; the others go on.",
        )

    def task_came_back(self, task: str, worker: str, seconds: float) -> None:
        self._add(f"{seconds:.1f} s later its lease had ended and {task} was read by worker {worker}.")

    def too_late(self) -> None:
        self._add("The crawl was done before that could be killed: there was too little to read.")

    def program_killed(self, pid: int, plan: Plan, state: State) -> None:
        ours = (name for name in state.pids if name.startswith(f"{plan.run}."))
        alive = [state.pids[name] for name in ours if name not in state.killed]
        self._say(
            "kill -9 of the whole program",
            f"SIGKILL to {pid} and its workers {', '.join(map(str, alive))}, all at once. Nothing of it runs any "
            f"more. {state.done} of {state.known} known modules are done.",
        )

    def resumed(self, state: State, losses: Sequence[Any]) -> None:
        waiting = state.known - state.done - len(state.leases)
        under_way = _listed(sorted(state.leases), NAMES_SHOWN)
        self._say(
            "The program is started again",
            f"Found in the file: {state.done} modules done, {waiting} waiting, and {len(state.leases)} under way"
            + (
                f" in workers that are dead ({under_way}). Those come back as their leases end."
                if losses
                else "."
            ),
        )

    def finished(self, state: State) -> None:
        self._add(f"All {state.done} modules are done.")

    # -- while an act lasts -----------------------------------------------------------------------------------

    @contextmanager
    def live(self) -> Iterator[None]:
        """Between entering and leaving, `show` draws over what it drew before; without a terminal it is silent."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def show(self, state: State) -> None:
        if self._live is not None:
            self._live.update(_drawn(state), refresh=True)

    # -- the end ----------------------------------------------------------------------------------------------

    def results(self, modules: Mapping[str, Mapping[str, Any]], tasks: Tracker) -> None:
        self._say("What was found")
        importers = Counter(name for found in modules.values() for name in found["imports"])
        for table in (_most_imported(modules, importers), _lines_by_package(modules), _by_worker(tasks)):
            self.console.print()
            self.console.print(table)

    def attempts(self, tasks: Tracker, losses: Mapping[str, list[str]]) -> None:
        """Every task that took more than one attempt, and why."""
        repeated = {name: task for name, task in tasks.items() if task["_tries"] > 1}
        self._say(f"{len(repeated)} of {len(tasks)} tasks took more than one attempt")
        if repeated:
            table = _table("module", "attempts>", "lost by", "finished by", "finished>")
            for name, task in repeated.items():
                lost = (
                    ", ".join(f"{worker} (killed)" for worker in losses.get(name, ())) or "a lease that ended"
                )
                table.add_row(name, str(task["_tries"]), lost, task["worker"], _times(task["finished"]))
            self.console.print(table)

    def verdict(self, passed: bool, statements: Sequence[tuple[bool, str]]) -> None:
        self._say("Is it right?")
        for holds, statement in statements:
            mark = Text("   yes  " if holds else "   NO   ", style="bold green" if holds else "bold red")
            text = textwrap.fill(statement, WIDTH - 8, subsequent_indent=" " * 8)
            self.console.print(Text.assemble(mark, text), soft_wrap=True)
        if not passed:
            self._add("This should never happen. The hold is kept as it is; please report it.")

    def what_next(self, path: str, first: str) -> None:
        self._say("Try next")
        program = _this_command()
        for arguments, meaning in (
            (f"inspect {path}", "what is in the file"),
            (f"ls {path} modules", "what was found in each module"),
            (f"get {path} tasks {first}", "one task, and who did it"),
            (f"dump {path} modules | head -3", "all of it as JSON lines"),
            (f"check {path}", "every invariant of the file"),
        ):
            told = Text.assemble(("   # " + meaning + "\n", "dim"), f"   {program} {arguments}")
            self.console.print(told, soft_wrap=True)
        self._add("", "And README.md, to write a program like this one.")


def _drawn(state: State) -> RenderableType:
    """The bar, and under it what each worker reads."""
    grid = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(state.known, 1), completed=state.done, width=36)
    grid.add_row(" ", bar, f"{state.done} of {state.known} known modules")
    lines: list[RenderableType] = [grid]
    newest = max((name.partition(".")[0] for name in state.pids), default="1")
    reading = {worker: task for task, worker in state.leases.items()}
    for name in sorted(name for name in state.pids if name.startswith(f"{newest}.")):
        does = "killed while it read " if name in state.killed else ""
        line = f"   worker {name}  pid {state.pids[name]:<8} {does}{reading.get(name, '')}"
        lines.append(Text(line[: WIDTH - 1], style="dim"))
    return Group(*lines)


def _most_imported(modules: Mapping[str, Mapping[str, Any]], importers: Counter[str]) -> RenderableType:
    table = _table("most imported", "by modules>", "lines>", "functions>", "classes>")
    for name, count in importers.most_common(MOST_ROWS):
        found = modules[name]
        numbers = [f"{found[what]:,}" for what in ("lines", "functions", "classes")]
        table.add_row(name, str(count), *(numbers if found["source"] else ["compiled", "", ""]))
    total = [
        f"{sum(found[what] for found in modules.values()):,}" for what in ("lines", "functions", "classes")
    ]
    table.add_section()
    table.add_row(f"all {len(modules)} modules", f"{sum(importers.values()):,}", *total, style="bold")
    return table


def _lines_by_package(modules: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    lines: Counter[str] = Counter()
    for name, found in modules.items():
        lines[name.partition(".")[0]] += found["lines"]
    largest = lines.most_common(MOST_ROWS)
    table = _table("lines of source", "", ">")
    for name, count in largest:
        table.add_row(name, Bar(largest[0][1], 0, count, width=36, color="cyan"), f"{count:,}")
    return table


def _by_worker(tasks: Tracker) -> RenderableType:
    finished = Counter(task["worker"] for task in tasks.values())
    table = _table("worker", "finished>")
    for name, count in sorted(finished.items()):
        table.add_row(name, str(count))
    return table


def _table(*columns: str) -> Table:
    """A table without a frame; a column whose name ends in > is one of numbers."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(" ")
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left")
    add_row = table.add_row
    table.add_row = lambda *cells, **style: add_row("", *cells, **style)  # type: ignore[method-assign]
    return table


def _this_command() -> str:
    """How a person calls us again, from here."""
    if shutil.which("holdfast"):
        return "holdfast"
    script = Path(sys.argv[0])
    if script.name != "holdfast":
        return f"{Path(sys.executable).name} -m holdfast.cli"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def _listed(names: Any, most: int) -> str:
    names = list(names)
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _wrapped(paragraph: str, indent: int) -> str:
    pad = " " * indent
    if "/" in paragraph and " " not in paragraph:
        return pad + paragraph  # a path is for copying
    return textwrap.fill(paragraph, WIDTH, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False)
