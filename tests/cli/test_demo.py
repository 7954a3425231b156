"""The demo, with real processes and real kills; and what it takes for granted of its parts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import holdfast
from holdfast.cli.demo import performance
from holdfast.cli.demo.scan import crawl_plainly, scan, source_of
from holdfast.cli.demo.show import WIDTH, Stage

QUICK = ("--from", "textwrap", "--workers", 3, "--pace", 0.02, "--lease", 0.25)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """One performance: the path of its hold, its exit code, and what was printed."""
    path = str(tmp_path_factory.mktemp("demo") / "demo.hold")
    line = [sys.executable, "-m", "holdfast.cli", "demo", "--at", path, *map(str, QUICK)]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=110, env={**os.environ, "COLUMNS": "80"}
    )
    return path, done.returncode, done.stdout, done.stderr


def test_the_demo_ends_complete_although_it_was_killed_twice(shown):
    _, code, text, errors = shown
    assert (code, errors) == (0, "")
    assert "a worker dies" in text and "kill -9 of the whole program" in text and "is started again" in text
    assert text.count("   yes  ") == 3 and "NO" not in text


def test_its_hold_holds_what_a_plain_crawl_finds(shown):
    path, *_ = shown
    with holdfast.open(path, readonly=True) as hold:
        tasks = hold.tracker("tasks")
        assert hold.dict("modules").copy() == crawl_plainly("textwrap")
        assert {task["finished"] for task in tasks.values()} == {1}
        assert tasks.num_done() == len(tasks)
        assert sum(task["_tries"] > 1 for task in tasks.values()) >= 2  # what each kill interrupted
        assert {worker["run"] for worker in hold.dict("workers").values()} == {1, 2}
        assert hold.check() == []


def test_it_leaves_no_process_behind(shown):
    path, *_ = shown
    with holdfast.open(path, readonly=True) as hold:
        for worker in hold.dict("workers").values():
            with pytest.raises(ProcessLookupError):
                os.kill(worker["pid"], 0)


def test_every_line_fits_a_terminal_but_commands_and_paths(shown):
    path, _, text, _ = shown
    assert [line for line in text.splitlines() if len(line.rstrip()) > WIDTH and path not in line] == []


def test_each_command_that_it_suggests_works(shown, run):
    path, _, text, _ = shown
    suggested = re.findall(r"(?:holdfast|holdfast\.cli) (\w+ " + re.escape(path) + r"[^|\n]*)", text)
    assert len(suggested) == 5
    for line in suggested:
        assert run(*line.split()).exit_code == 0, line


def test_a_result_that_differs_is_found(shown, tmp_path, capsys):
    with holdfast.open(shown[0], readonly=True) as hold:
        hold.backup(tmp_path / "copy.hold")
    with holdfast.open(tmp_path / "copy.hold", shared=True) as hold:
        assert performance._judge(hold, "textwrap", Stage(Console()), [])
        hold.dict("modules")["re"]["lines"] += 1
        assert not performance._judge(hold, "textwrap", Stage(Console()), [])
    assert "1 modules differ, among them re" in " ".join(capsys.readouterr().out.split())


def test_a_hold_that_is_there_is_not_overwritten(run, path):
    before = Path(path).read_bytes()
    assert run("demo", "--at", path).exit_code == 2
    assert Path(path).read_bytes() == before


def test_it_begins_with_a_module_that_has_a_source(run, tmp_path):
    result = run("demo", "--at", tmp_path / "x.hold", "--from", "no_such_module")
    assert result.exit_code == 2 and "no_such_module" in result.stderr


def test_two_demos_at_once_have_two_places(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with performance._place(None) as first, performance._place(None) as second:
        assert first == str(tmp_path / "holdfast-demo" / "stdlib.hold") and second != first


def test_a_scan_finds_functions_classes_and_imports():
    found = scan("asyncio.events")
    assert found["source"] == "asyncio/events.py" and found["classes"] > 5 and found["functions"] > 50
    assert {"asyncio.format_helpers", "asyncio", "contextvars", "socket"} <= set(found["imports"])
    assert "os.path" not in found["imports"]
    assert scan("sys") == {"source": None, "lines": 0, "functions": 0, "classes": 0, "imports": []}
    assert source_of("asyncio").name == "__init__.py"
