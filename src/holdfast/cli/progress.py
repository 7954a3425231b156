"""How far a long command is: a bar on stderr where that is a terminal, else nothing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(label: str, total: int | None, beside_output: bool = False) -> Iterator[Callable[[int], None]]:
    """Gives `advance(steps)`. `total` None: not known. `beside_output`: stdout is being written to meanwhile."""
    if not sys.stderr.isatty() or (beside_output and sys.stdout.isatty()):
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(task, steps)
