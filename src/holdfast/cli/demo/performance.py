"""The demo as a whole: a place for the hold, the performance, and the judgement of what came out of it."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from holdfast import hold as holds
from holdfast.cli.demo.crawl import Plan
from holdfast.cli.demo.drive import Driver, Loss
from holdfast.cli.demo.scan import crawl_plainly, source_of
from holdfast.cli.demo.show import Stage
from holdfast.errors import InvalidError
from holdfast.hold import Hold
from holdfast.structures.tracked import plain

FILE = "stdlib.hold"
BESIDE = ("", "-wal", "-shm", "-seq")


def perform(at: str | None, first: str, workers: int, lease_seconds: float, pace_seconds: float) -> bool:
    """Give the demo; whether all came out as it should."""
    if source_of(first) is None:
        raise InvalidError(
            f"the standard library has no source of a module {first!r} here: begin with another"
        )
    console = Console(highlight=False)
    with _place(at) as path:
        plan = Plan(path, 1, workers, lease_seconds, pace_seconds)
        stage = Stage(console)
        stage.begins(path, first, plan)
        with holds.open(path, shared=True) as hold:
            hold.dict("modules")
            hold.dict("workers")
            hold.tracker("tasks").add(first)
            driver = Driver(hold, plan, stage)
            driver.perform()
            passed = _judge(hold, first, stage, driver.losses)
        stage.what_next(path, first)
        console.print()
        return passed


def _judge(hold: Hold, first: str, stage: Stage, losses: list[Loss]) -> bool:
    tasks, modules = hold.tracker("tasks"), plain(hold.dict("modules").copy())
    stage.results(modules, tasks)
    lost: dict[str, list[str]] = {}
    for loss in losses:
        lost.setdefault(loss.task, []).append(loss.worker)
    stage.attempts(tasks, lost)
    expected = crawl_plainly(first)
    finished = [task.get("finished", 0) for task in tasks.values()]
    statements = [
        (modules == expected, _comparison(modules, expected)),
        (set(finished) == {1}, f"Each of the {len(finished)} tasks was finished exactly once."),
        (hold.check() == [], "The file is sound: every invariant of it holds."),
    ]
    passed = all(holds for holds, _ in statements)
    stage.verdict(passed, statements)
    return passed


def _comparison(modules: dict[str, Any], expected: dict[str, Any]) -> str:
    if modules == expected:
        return (
            f"One process that crawls into a plain dict finds the same: {len(expected)} modules, all alike."
        )
    different = sorted(
        name for name in modules.keys() | expected.keys() if modules.get(name) != expected.get(name)
    )
    return (
        f"One process that crawls into a plain dict finds the same: no, {len(different)} modules differ, "
        f"among them {', '.join(different[:5])}."
    )


@contextmanager
def _place(at: str | None) -> Iterator[str]:
    """The path of the hold, nothing being there yet. One that was named is never overwritten."""
    if at is not None:
        if os.path.lexists(at):
            raise InvalidError(f"{at!r} exists already: choose another name, or remove it first")
        yield os.path.realpath(at)
        return
    directory = Path(tempfile.gettempdir(), "holdfast-demo")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if not _is_free(found):
            directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
        for ending in BESIDE:
            Path(directory, FILE + ending).unlink(missing_ok=True)
        yield str(directory / FILE)
    finally:
        os.close(found)


def _is_free(directory: int) -> bool:
    """Whether the usual directory is ours, and no other demo plays in it; until it is closed none will."""
    if os.fstat(directory).st_uid != os.geteuid():
        return False
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
