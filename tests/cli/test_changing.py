"""set, del, edit."""

import re
import stat
import sys
from pathlib import Path

import pytest

import holdfast

SOURCE = Path(holdfast.__file__).parents[1]


def entries(path, name="pages"):
    with holdfast.open(path, readonly=True) as hold:
        return hold.dict(name).copy()


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (("/new", '{"a": [1]}'), "/new", {"a": [1]}),
        (("/new", "hello", "--text"), "/new", "hello"),
        (("8", "1.5", "--json-key"), 8, 1.5),
        (('["x", [1]]', "NaN", "--json-key"), ("x", (1,)), None),
        (("/", "false"), "/", False),
    ],
)
def test_set_takes_json_or_text(run, path, arguments, key, value):
    assert run("set", path, "pages", *arguments).exit_code == 0
    found = entries(path)[key]
    assert found == value or (value is None and found != found)


def test_set_reads_a_value_from_stdin(run, path):
    assert run("set", path, "pages", "/", "-", "--text", input="long\ntext").exit_code == 0
    assert entries(path)["/"] == "long\ntext"


def test_set_is_seen_at_once_by_a_program_that_has_the_hold_open(spawn, path):
    with holdfast.open(path, shared=True) as hold:
        pages = hold.dict("pages")
        assert spawn("set", path, "pages", "/", "5").wait(30) == 0
        assert pages["/"] == 5


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("pages", "/", "{oops"), 2, "--text"),
        (("tasks", "first", "5"), 2, "dict of its fields"),
        (("nowhere", "/", "5"), 3, "--create"),
    ],
)
def test_set_refuses_and_changes_nothing(run, path, arguments, code, told):
    before = entries(path)
    result = run("set", path, *arguments)
    assert result.exit_code == code and told in result.stderr
    assert entries(path) == before


def test_set_makes_file_and_structure_only_when_asked(run, tmp_path):
    new = tmp_path / "new.hold"
    assert run("set", new, "pages", "a", "1").exit_code == 3 and not new.exists()
    assert run("set", new, "pages", "a", "1", "--create").exit_code == 0
    assert entries(str(new)) == {"a": 1}


def test_del_removes_a_key(run, path):
    assert run("del", path, "pages", "/").exit_code == 0
    assert run("del", path, "pages", "7", "--json-key").exit_code == 0
    assert list(entries(path)) == ["/about", (3, "a")]


def test_del_of_what_is_not_there_says_so(run, path):
    result = run("del", path, "pages", "7")
    assert result.exit_code == 3 and "--json-key" in result.stderr


def test_del_all_removes_the_structure(run, path):
    assert run("del", path, "pages").exit_code == 2
    assert run("del", path, "pages", "--all").exit_code == 0
    assert run("ls", path).stdout.split() == ["tracker", "2", "tasks"]


# -- edit -----------------------------------------------------------------------------------------------------


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """An $EDITOR that runs a line of sed or shell on the file, "$1"."""

    def use(line: str) -> None:
        script = tmp_path / "editor.sh"
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("EDITOR", str(script))
        monkeypatch.delenv("VISUAL", raising=False)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return use


def kept(stderr: str) -> Path:
    return Path(re.search(r"--resume (\S+?)`", stderr)[1])


def test_edit_takes_changed_new_removed_and_moved_lines(run, path, editor):
    editor(
        """{ echo '{"key":["n",1],"value":"new"}'; sed -e '/"[/]about",.value/d' -e 's/seven/7 it is/' "$1"; } > "$1.x"
        mv "$1.x" "$1" """
    )
    result = run("edit", path, "pages")
    assert (result.exit_code, result.stderr) == (0, "1 changed, 1 added, 1 removed\n")
    found = entries(path)
    assert list(found) == [("n", 1), "/", 7, (3, "a")] and found[7] == "7 it is"
    with holdfast.open(path) as hold:
        assert hold.check() == []


def test_an_edit_is_one_batch(run, path, editor):
    with holdfast.open(path) as hold:
        before = hold.since(0).cursor
    editor("""sed -i 's/"title"/"name"/' "$1" """)
    assert run("edit", path, "pages").exit_code == 0
    with holdfast.open(path) as hold:
        assert hold.since(0).cursor == before + 1


def test_an_edit_that_changes_nothing_writes_nothing(run, path, editor, tmp_path):
    editor("true")
    assert run("edit", path, "pages").stderr == "nothing was changed\n"
    assert list(tmp_path.glob("holdfast-edit-*")) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("""echo '{"key":' >> "$1" """, "line 5 is not JSON"),
        ("""echo '{"key":7,"value":1}' >> "$1" """, "lines 3 and 5 have the same key, 7"),
        ("""echo '{"value":1}' >> "$1" """, "line 5"),
        ("exit 1", "the editor failed"),
    ],
)
def test_an_edit_that_cannot_be_taken_keeps_the_text_and_can_be_resumed(run, path, editor, line, told):
    before = entries(path)
    editor("sed -i 's/seven/eight/' \"$1\"\n" + line)
    result = run("edit", path, "pages")
    assert result.exit_code == 2 and told in result.stderr and "nothing was changed" in result.stderr
    assert entries(path) == before
    text = kept(result.stderr)
    assert "eight" in text.read_text()
    editor("""sed -i '5,$d' "$1" """)
    assert run("edit", path, "pages", "--resume", text).exit_code == 0
    assert entries(path)[7] == "eight"
    assert not text.exists()


def test_an_edit_does_not_undo_what_another_changed_meanwhile(run, path, editor):
    editor(f"""sed -i 's/seven/eight/' "$1"; PYTHONPATH={SOURCE} {sys.executable} -m holdfast.cli \\
        set '{path}' pages 7 '"theirs"' --json-key""")
    result = run("edit", path, "pages")
    assert result.exit_code == 1 and "changed by somebody else" in result.stderr
    assert entries(path)[7] == "theirs" and "eight" in kept(result.stderr).read_text()


def test_an_edit_of_other_keys_goes_together_with_anothers_change(run, path, editor):
    editor(f"""sed -i 's/seven/eight/' "$1"; PYTHONPATH={SOURCE} {sys.executable} -m holdfast.cli \\
        set '{path}' pages / 1""")
    assert run("edit", path, "pages").exit_code == 0
    assert (entries(path)[7], entries(path)["/"]) == ("eight", 1)


def test_tasks_can_be_edited(run, path, editor):
    editor("""sed -i 's/"_done":true/"_done":false/' "$1" """)
    assert run("edit", path, "tasks").exit_code == 0
    with holdfast.open(path) as hold:
        assert not hold.tracker("tasks").done("first")


def test_what_is_not_json_is_refused_before_the_editor_opens(run, path, editor):
    with holdfast.open(path) as hold:
        hold.dict("models", serializer="pickle")["k"] = 1
    editor("touch '$TMPDIR/opened'")
    result = run("edit", path, "models")
    assert result.exit_code == 2 and "pickle" in result.stderr
