"""dump, load, import: what goes out comes back the same."""

import gzip
import json
import math
import random

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast.cli import lines
from holdfast.cli.app import holdfast as command
from holdfast.cli.lines import Entry
from holdfast.codec import JSON, encode
from holdfast.structures.tracker import Tally

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
tasks = st.fixed_dictionaries(
    {"_done": st.booleans(), "_tries": st.integers(0, 9), "_aborted": st.booleans()},
    optional={"note": values},
)


def same(a, b) -> bool:
    """Equal, NaN being equal to NaN, and 1 not to True."""
    return encode(a) == encode(b)


@given(key=keys, value=values, marks=st.lists(st.sampled_from(lines.MARKS), unique=True))
def test_any_entry_survives_its_line(key, value, marks):
    text = lines.entry(key, encode(value), JSON, marks)
    assert "\n" not in text and "\r" not in text
    (read,) = lines.parse([text])
    assert (
        isinstance(read, Entry) and read.key == key and same(read.value, value) and read.marks == tuple(marks)
    )


@given(pairs=st.dictionaries(keys, values, max_size=6), work=st.dictionaries(keys, tasks, max_size=4))
def test_any_hold_survives_dump_and_load(tmp_path_factory, pairs, work):
    directory = tmp_path_factory.mktemp("dump")
    first, second = str(directory / "a.hold"), str(directory / "b.hold")
    with holdfast.open(first, sync_seconds=None) as hold:
        hold.dict("pairs").update(pairs)
        hold.tracker("tasks").update(work)
    dumped = CliRunner().invoke(command, ["dump", first]).stdout_bytes
    assert CliRunner().invoke(command, ["load", second], input=dumped).exit_code == 0
    assert CliRunner().invoke(command, ["dump", second]).stdout_bytes == dumped
    with holdfast.open(second, sync_seconds=None) as hold:
        assert list(hold.dict("pairs")) == list(pairs)
        assert all(same(hold.dict("pairs")[key], value) for key, value in pairs.items())
        assert [*hold.tracker("tasks")] == [*work]
        for key, task in work.items():
            assert same(sorted(hold.tracker("tasks")[key].items()), sorted(task.items()))
        assert hold.check() == []


@pytest.fixture
def varied(tmp_path):
    """A hold with a structure of each sort, entries of each mark, and enough to be loaded in several steps."""
    path = str(tmp_path / "varied.hold")
    with holdfast.open(path) as hold:
        hold.dict("pages").update((f"/{n}", {"n": n, "x": random.random()}) for n in range(20_000))
        hold.dict("numbers").update((n, n) for n in range(5_000))
        hold.dict("blobs", serializer="bytes")["k"] = b"\x00\xff"
        hold.dict("models", serializer="pickle")[3, 4] = {1, 2}
        hold.dict("texts", serializer="str")["t"] = 'a\n"b"'
        hold.dict("packed", serializer="msgpack")["t"] = {"a": b"x"}
        hold.dict("strict", strict_json=True)["t"] = 1
        hold.dict("merged", merge="fields", local=["secret"])["t"] = {"a": {"b": 1}, "secret": 2}
        hold.dict("mine", local=True)["t"] = 1
        hold.dict("empty")
        hold.dict("pages").mark("/1", local=True)
        tasks = hold.tracker("tasks")
        tasks.add_many(["a", ("b", 1), 3])
        tasks.finish(tasks.claim("w", 1000.0)[0], result=[1])
        tasks.claim("w", 1000.0)
        tasks.abort(3)
    return path


def test_every_sort_of_structure_is_dumped_and_loaded(run, varied, tmp_path):
    dumped = run("dump", varied).stdout_bytes
    copy = tmp_path / "copy.hold"
    assert run("load", copy, input=dumped).exit_code == 0
    assert run("dump", copy).stdout_bytes == dumped
    assert run("check", copy).exit_code == 0
    with holdfast.open(copy) as hold:
        assert hold.dict("models", serializer="pickle")[3, 4] == {1, 2}
        assert hold.tracker("tasks").tally() == Tally(total=3, done=1, tried=2, aborted=1)
        assert "/1" not in [one.key for one in hold.since(0) if one.structure == "pages"]  # still local


def test_one_structure_alone_is_dumped_and_loaded_under_another_name(run, path):
    dumped = run("dump", path, "pages").stdout
    assert json.loads(dumped.splitlines()[0]) == {"structure": "pages", "kind": "dict"}
    assert run("load", path, "copy", input=dumped).stderr == "loaded 4 into copy\n"
    with holdfast.open(path) as hold:
        assert hold.dict("copy") == hold.dict("pages")


def test_loading_keeps_other_keys_and_can_be_repeated(run, path):
    text = '{"key":"/","value":1}\n\n{"key":"/z","value":2}'
    for _ in range(2):
        assert run("load", path, "pages", input=text).exit_code == 0
    with holdfast.open(path) as hold:
        assert list(hold.dict("pages")) == ["/", "/about", 7, (3, "a"), "/z"] and hold.dict("pages")["/"] == 1


def test_load_reads_a_file(run, path, tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"structure":"new"}\n{"key":"a","value":1}\n')
    assert run("load", path, "--from", tmp_path / "lines.jsonl").exit_code == 0
    assert run("get", path, "new", "a").stdout == "1\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"key":"a","value":1}', "line 1 is of no structure"),
        ('{"structure":"d"}\n{"key":"a","value":1}\n{"key', "line 3 is not JSON"),
        ('{"structure":"d"}\n{"key":"a","value":1}\n[1]', "line 3 is no line of a dump"),
        (
            '{"structure":"d"}\n{"key":"a","value":1}\n{"key":"b"}',
            'line 3 must have either "value" or "base64"',
        ),
        ('{"structure":"d"}\n{"key":"a","value":1}\n{"key":{},"value":1}', "line 3: {} can't be a key"),
        ('{"structure":"d"}\n{"key":"a","value":1}\n{"key":"b","base64":"?"}', 'line 3: its "base64"'),
        ('{"structure":"d"}\n{"key":"a","value":1}\n{"key":"b","base64":"YQ=="}', 'must come as "value"'),
        ('{"structure":"d"}\n{"key":"a","value":1}\n{"key":"b","value":1,"marks":["x"]}', 'line 3: "marks"'),
        ('{"structure":"d"}\n{"key":"a","value":1}\n{"structure":"t","kind":"records"}', "kind 'records'"),
        ('{"structure":"d"}\n{"key":"a","value":1}\n{"structure":"t","options":{"x":1}}', "unknown here: x"),
        ('{"structure":"d"}\n{"key":"a","value":1}\n{"structure":"pages","kind":"tracker"}', "is a dict"),
        (b'{"structure":"d"}\n{"key":"a","value":1}\n\xff', "line 3 is not UTF-8"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_what_was_before_it_is_loaded(run, path, text, told):
    result = run("load", path, input=text)
    assert result.exit_code == 2 and told in result.stderr and result.stderr.count("\n") == 1
    if "structure" in str(text):
        assert "the 1 entries before it are loaded" in result.stderr
        assert run("get", path, "d", "a").stdout == "1\n"


def test_a_second_structure_is_not_poured_into_the_first(run, path):
    result = run("load", path, "one", input=run("dump", path).stdout)
    assert result.exit_code == 2 and "second structure, 'tasks'" in result.stderr


def test_loading_nothing_says_so(run, path):
    assert run("load", path, input="").stderr == "there was nothing to load\n"


# -- import ---------------------------------------------------------------------------------------------------


def test_a_directory_of_tastypy_is_imported(run, tmp_path):
    old = tmp_path / "old.pod"
    old.mkdir()
    (old / "0.json.gz").write_bytes(gzip.compress(b'"a"\t{"x": 1}\n7\t[1, NaN]\n'))
    result = run("import", "tastypy", old)
    assert result.exit_code == 0 and "2 entries" in result.stdout
    assert run("get", tmp_path / "old.hold", "pod", "a").stdout == '{"x":1}\n'
    with holdfast.open(tmp_path / "old.hold") as hold:
        assert math.isnan(hold.dict("pod")[7][1])


def test_what_a_damaged_file_lost_is_told_by_the_exit_code_too(run, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "0.json").write_text('"a"\t1\n"b"\t{"x')
    result = run("import", "tastypy", old, "--to", tmp_path / "new.hold", "--name", "kept")
    assert result.exit_code == 1 and "lost:" in result.stdout and "'b'" in result.stdout
    assert run("get", tmp_path / "new.hold", "kept", "a").stdout == "1\n"


def test_nothing_to_import_is_told(run, tmp_path):
    assert run("import", "tastypy", tmp_path / "nowhere").exit_code == 3
    assert run("import", "tastypy", tmp_path).exit_code == 2
    assert run("import", "other", tmp_path).exit_code == 2
