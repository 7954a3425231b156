"""What the tests of the command share: calling it in this process, and in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import holdfast
from holdfast.cli.app import holdfast as command

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def run() -> Run:
    """`run("ls", path, input=…)`: its exit_code, stdout and stderr; an exception that escapes fails the test."""

    def run(*arguments: object, **options: object) -> Result:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments], **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def spawn() -> Callable[..., "subprocess.Popen[bytes]"]:
    """The command in a process of its own."""

    def spawn(*arguments: object, **options: object) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **options.pop("env", {})}
        line = [sys.executable, "-m", "holdfast.cli", *map(str, arguments)]
        return subprocess.Popen(line, env=environment, **options)

    return spawn


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A hold with a dict and a tracker."""
    made = str(tmp_path / "site.hold")
    with holdfast.open(made) as hold:
        pages = hold.dict("pages")
        pages["/"] = {"title": "Home", "links": ["/about", "/news"]}
        pages["/about"] = {"title": "About", "links": []}
        pages[7] = "seven"
        pages[3, "a"] = None
        tasks = hold.tracker("tasks")
        tasks.add("first")
        tasks.add("second", {"depth": 2})
        tasks.mark_done("first")
    return made
