"""inspect, ls, get."""

import json
from pathlib import Path

import pytest

import holdfast


def test_inspect_tells_structures_counts_and_format(run, path):
    shown = run("inspect", path).stdout
    assert "site.hold" in shown and "node" in shown and "all folded" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("pages", "tasks"))] == [
        ["pages", "dict", "4", "0"],
        ["tasks", "tracker", "2", "0"],
    ]


def test_inspect_as_json_tells_the_same(run, path):
    found = json.loads(run("inspect", path, "--json").stdout)
    assert found["file"] == path and found["format"] == 1 and found["newest_batch"] == found["folded_batch"]
    assert [(one["structure"], one["kind"], one["entries"]) for one in found["structures"]] == [
        ("pages", "dict", 4),
        ("tasks", "tracker", 2),
    ]


def test_inspect_counts_what_is_not_folded_yet(run, path, spawn):
    with holdfast.open(path, shared=True) as hold:
        hold.dict("pages")["new"] = 1
        program = spawn(
            "inspect", path, "--json", stdout=-1
        )  # another process: here the hold is open for writing
        found = json.loads(program.communicate(timeout=30)[0])
    assert found["newest_batch"] == found["folded_batch"] + 1
    assert found["structures"][0]["entries"] == 5 and found["structures"][0]["unfolded"] == 1


def test_ls_without_a_structure_lists_the_structures(run, path):
    assert [line.split() for line in run("ls", path).stdout.splitlines()] == [
        ["dict", "4", "pages"],
        ["tracker", "2", "tasks"],
    ]
    lines = run("ls", path, "--json").stdout.splitlines()
    assert json.loads(lines[0]) == {"structure": "pages", "kind": "dict", "entries": 4}


def test_ls_shows_each_key_with_the_beginning_of_its_value(run, path):
    lines = run("ls", path, "pages").stdout.splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["/", "/about", "7", '[3,"a"]']
    assert lines[0].endswith('{"title":"Home","links":["/about","/news"]}')


def test_ls_stops_at_the_limit_and_says_what_is_left(run, path):
    result = run("ls", path, "pages", "--limit", 1)
    assert result.stdout.count("\n") == 1 and "3 more" in result.stderr
    assert run("ls", path, "pages", "--limit", 0).stdout.count("\n") == 4


def test_ls_as_json_is_one_entry_a_line(run, path):
    entries = [json.loads(line) for line in run("ls", path, "pages", "--json").stdout.splitlines()]
    assert [entry["key"] for entry in entries] == ["/", "/about", 7, [3, "a"]]


def test_no_key_or_value_moves_the_cursor_of_the_terminal(run, path):
    with holdfast.open(path) as hold:
        hold.dict("pages")["a\x1b[2J\n"] = "\x9b31m\r"
    shown = run("ls", path, "pages").stdout
    assert "\x1b" not in shown and "\x9b" not in shown and "\r" not in shown
    assert shown.count("\n") == 5


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("/",), '{"title":"Home","links":["/about","/news"]}'),
        (("/", "title"), '"Home"'),
        (("/", "title", "--text"), "Home"),
        (("/", "links", "1"), '"/news"'),
        (("/", "links", "--", "-1"), '"/news"'),
        (("7", "--json-key"), '"seven"'),
        (('[3, "a"]', "--json-key"), "null"),
    ],
)
def test_get_prints_the_value_or_what_is_inside_it(run, path, arguments, printed):
    assert run("get", path, "pages", *arguments).stdout == printed + "\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("/abuot",), 3, "did you mean /about?"),
        (("7",), 3, "--json-key"),
        (("/", "titel"), 3, "it has: title, links"),
        (("/", "links", "x"), 2, "must be a number"),
        (("/", "links", "9"), 3, "it has 2"),
        (("/", "title", "x"), 3, "nothing inside"),
        (("{", "--json-key"), 2, "not JSON"),
        (("{}", "--json-key"), 2, "can't be a key"),
        (("/", "--text"), 2, "leave out --text"),
    ],
)
def test_get_says_what_was_wrong_and_what_would_be_right(run, path, arguments, code, told):
    result = run("get", path, "pages", *arguments)
    assert result.exit_code == code and told in result.stderr and result.stdout == ""


def test_values_of_other_serializers_are_told_but_a_pickle_is_never_loaded(run, path):
    with holdfast.open(path) as hold:
        hold.dict("blobs", serializer="bytes")["k"] = b"\x00\xff"
        hold.dict("models", serializer="pickle")["k"] = {1, 2}
    assert run("get", path, "blobs", "k", "--text").stdout_bytes == b"\x00\xff"
    assert "2 bytes: 00ff" in run("ls", path, "blobs").stdout
    assert "<pickle" in run("ls", path, "models").stdout
    refused = run("get", path, "models", "k")
    assert refused.exit_code == 2 and "can run code" in refused.stderr


def test_looking_changes_nothing_in_the_file(run, path):
    before = Path(path).read_bytes()
    for arguments in (("inspect", path), ("ls", path, "pages"), ("get", path, "pages", "/"), ("check", path)):
        assert run(*arguments).exit_code == 0
    assert Path(path).read_bytes() == before
