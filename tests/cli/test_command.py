"""The command as a whole: errors, exit codes, pipes, completion; check and backup."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.cli.app import EXIT_CODES
from holdfast.cli.app import holdfast as command


def kill_with_open_hold(path: str, script: str) -> None:
    """Run `script` with an open `hold` in a process that then dies by SIGKILL."""
    text = f"import os, holdfast\nhold = holdfast.open({path!r})\n{script}\nos.kill(os.getpid(), {int(signal.SIGKILL)})"
    assert subprocess.run([sys.executable, "-c", text], timeout=30).returncode == -signal.SIGKILL


# -- errors ---------------------------------------------------------------------------------------------------


def test_every_error_of_the_library_has_an_exit_code():
    codes = dict(EXIT_CODES)
    ours = {kind for kind in holdfast.HoldfastError.__subclasses__() if kind.__module__ == "holdfast.errors"}
    assert set(codes) | {holdfast.ConflictError, holdfast.ClosedError} == ours
    assert all(f"  {code}  " in command.epilog for code in {0, 1, *codes.values()})


@pytest.mark.parametrize("name", ["inspect", "ls", "dump", "check"])
def test_a_file_that_is_no_hold_is_left_alone(run, tmp_path, name):
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n" * 100)
    result = run(name, notes)
    assert result.exit_code == 5 and "notes.txt" in result.stderr and result.stderr.count("\n") == 1
    assert notes.read_text() == "my notes\n" * 100 and list(tmp_path.iterdir()) == [notes]


@pytest.mark.parametrize(
    "arguments", [("inspect",), ("ls",), ("dump",), ("check",), ("edit", "d"), ("del", "d", "k")]
)
def test_a_missing_file_is_told_and_not_made(run, tmp_path, arguments):
    name, *rest = arguments
    result = run(name, tmp_path / "no.hold", *rest)
    assert result.exit_code == 3 and "there is no file" in result.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("ls",), ("get", "x"), ("set", "x", "1"), ("del", "x"), ("dump",), ("edit",)]
)
def test_a_missing_structure_is_told_with_those_that_are_there(run, path, arguments):
    name, *rest = arguments
    result = run(name, path, "pags", *rest)
    assert result.exit_code == 3 and "'pags'" in result.stderr
    assert "pages (dict)" in result.stderr or "--create" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_told(run, path):
    os.chmod(path, 0o400)
    assert run("ls", path).exit_code == 0
    assert run("set", path, "pages", "/", "1").exit_code == 6


def test_a_hold_that_somebody_locks_is_busy_to_writers_only(run, path, monkeypatch):
    script = (
        f"import holdfast, sys\nhold = holdfast.open({path!r})\nhold.lock()\n"
        "print('locked', flush=True)\nsys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"locked\n"
        original = holdfast.hold.open
        monkeypatch.setattr("holdfast.hold.open", lambda *a, **k: original(*a, **{**k, "wait_seconds": 0.05}))
        assert run("get", path, "pages", "/").exit_code == 0
        result = run("set", path, "pages", "/", "1")
        assert result.exit_code == 4 and result.stderr.count("\n") == 1
    finally:
        holder.communicate(timeout=30)


def test_usage_errors_are_click_s(run, path):
    assert run("nonsense").exit_code == 2
    assert run("get", path).exit_code == 2
    assert run("ls", path, "pages", "--limit", "-1").exit_code == 2


def test_each_command_has_help(run):
    for name, one in command.commands.items():
        result = run(name, "--help")
        assert result.exit_code == 0 and one.get_short_help_str(), name
    assert "Exit codes" in run("--help").stdout


def test_a_closed_pipe_is_no_error(spawn, tmp_path):
    path = str(tmp_path / "large.hold")
    with holdfast.open(path) as hold:
        hold.dict("d").update((n, "x" * 100) for n in range(20_000))
    for arguments in (
        ("dump", path),
        ("ls", path, "d", "--limit", 0),
        ("ls", path, "d", "--limit", 0, "--json"),
    ):
        program = spawn(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == b""
        program.stderr.close()
        assert program.wait(30) == 141


def test_rich_is_not_loaded_where_nothing_is_drawn(path):
    """So that completion and scripts start fast."""
    text = (
        "import sys\nfrom holdfast.cli.app import holdfast\n"
        f"holdfast(['get', {path!r}, 'pages', '/'], standalone_mode=False)\nassert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", text], check=True, timeout=30, stdout=subprocess.DEVNULL)


# -- completion -----------------------------------------------------------------------------------------------


def completed(words: str) -> list[str]:
    environment = {**os.environ, "_HOLDFAST_COMPLETE": "bash_complete", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(words.count(" "))
    line = [sys.executable, "-c", "from holdfast.cli import main; main()"]
    out = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30).stdout
    return [line.partition(",")[2] for line in out.split()]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("holdfast ins", ["inspect"]),
        ("holdfast ls {path} ", ["pages", "tasks"]),
        ("holdfast get {path} ta", ["tasks"]),
        ("holdfast get {path} pages /a", ["/about"]),
        ("holdfast get {path}.not pages /a", []),
        ("holdfast completion z", ["zsh"]),
    ],
)
def test_commands_structures_and_keys_are_completed(path, words, offered):
    assert completed(words.format(path=path)) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_shell_is_told_how_to_complete(run, shell):
    assert "_HOLDFAST_COMPLETE" in run("completion", shell).stdout


# -- check and backup -----------------------------------------------------------------------------------------


def test_a_sound_file_is_told_to_be(run, path):
    assert "no problem in 2 structures, 6 entries" in run("check", path).stdout
    assert json.loads(run("check", path, "--json").stdout)["problems"] == []


def test_a_file_with_a_problem_is_told_to_have_it(run, path):
    with holdfast.open(path) as hold:
        hold._journal.database.run("UPDATE entry SET value='{oops' WHERE key='/'")
    result = run("check", path)
    assert result.exit_code == 1 and "not JSON" in result.stdout and "1 problem" in result.stdout
    assert len(json.loads(run("check", path, "--json").stdout)["problems"]) == 1


def test_a_copy_of_a_hold_in_use_is_refused_until_it_is_adopted(run, path, tmp_path):
    kill_with_open_hold(path, "hold._journal.database.checkpoint()\nhold.dict('pages')['/'] = 1\nhold.sync()")
    copy = tmp_path / "copy.hold"
    shutil.copy(path, copy)
    for arguments in (("check", copy), ("set", copy, "pages", "/", "1"), ("check", copy)):
        result = run(*arguments)
        assert result.exit_code == 5 and "check --adopt" in result.stderr
    assert run("check", copy, "--adopt").exit_code == 0
    assert run("set", copy, "pages", "/", "2").exit_code == 0
    assert run("check", copy).exit_code == 0
    node = {json.loads(run("inspect", file, "--json").stdout)["node"] for file in (path, copy)}
    assert len(node) == 2
    assert run("get", path, "pages", "/").stdout == "1\n"  # the original has its log


def test_there_is_nothing_to_adopt_in_a_hold_that_is_whole(run, path):
    result = run("check", path, "--adopt")
    assert result.exit_code == 2 and "nothing to adopt" in result.stderr


def test_a_backup_is_a_hold_and_overwrites_nothing(run, path, tmp_path):
    target = tmp_path / "backup.hold"
    assert run("backup", path, target).exit_code == 0
    assert run("dump", target).stdout == run("dump", path).stdout
    assert run("backup", path, target).exit_code == 2
    assert run("backup", path, tmp_path / "no" / "where.hold").exit_code != 0


def test_the_module_runs_as_the_command_does(spawn):
    program = spawn("--help", stdout=subprocess.PIPE)
    assert b"Usage: holdfast" in program.communicate(timeout=30)[0] and Path(holdfast.__file__).is_file()
