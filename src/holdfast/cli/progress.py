"""How far a long command is: a bar on stderr where that is a terminal, else nothing."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called with the steps that were taken, and the total if it is known only now."""

    def __call__(self, steps: int, total: int | None = None, /) -> None: ...


@contextmanager
def progress(label: str, total: int | None, beside_output: bool = False) -> Iterator[Advance]:
    """`total` None: not known yet. `beside_output`: stdout is being written to meanwhile."""
    if not sys.stderr.isatty() or (beside_output and sys.stdout.isatty()):
        yield lambda steps, total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps, total=total: bar.update(task, total=total, advance=steps)
