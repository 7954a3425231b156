"""Directories of the original are brought into a hold: all that is whole, and what is lost is told."""

import gzip
import math
import random
from pathlib import Path

import pytest
from tests.compat.programs import old_line, write_old

import holdfast
from holdfast.compat.tastypy import (
    POD,
    PersistentOrderedDictIntegrityError,
    SharedPOD,
    SharedTracker,
    Tracker,
)
from holdfast.compat.tastypy_files import import_tastypy

ITEMS: list[tuple[object, object]] = [
    ("plain", "text"),
    ("back\\slash \\n \\\\ \\t", {"a\\b": "c\\d"}),
    ('tab\tnewline\nquote"', [1, 2.5, None, True]),
    ("ünï\U0001f600", "ünï\U0001f600"),
    (7, {"1": {"2": []}}),
    (-(10**25), 10**40),
    (("a", 1, ("b", ())), "tuple"),
    ("nan", [math.inf, -math.inf]),
    ("", ""),
    ("lone", "\ud800"),
]
TASK = {"_done": False, "_tries": 0, "_aborted": False}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new.hold"


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("file_size", [1, 3, 5, 100])
def test_everything_comes_in_in_order(gzipped: bool, file_size: int, tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", ITEMS, gzipped=gzipped, file_size=file_size)
    report = import_tastypy(old, target)
    assert POD(target).items() == ITEMS
    assert (report.kind, report.name, report.entries, report.lost, report.doubtful) == (
        "dict",
        "pod",
        10,
        (),
        (),
    )
    assert report.files == -(-10 // file_size)
    assert "10 entries" in str(report)


def test_many_files_come_in_by_number_not_by_name(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [(n, n) for n in range(25)], file_size=2)
    import_tastypy(old, target)
    assert POD(target).keys() == list(range(25))


def test_the_directory_is_left_as_it_is(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", ITEMS)
    before = {file.name: file.read_bytes() for file in old.iterdir()}
    import_tastypy(old, target)
    assert {file.name: file.read_bytes() for file in old.iterdir()} == before


def test_a_line_is_read_as_the_original_wrote_it(tmp_path: Path, target: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "0.json").write_bytes(b'"a\\\\\\\\b\\\\u00fc\\\\tc"\t{"k": [1, "\\\\"]}\n')
    import_tastypy(tmp_path / "old", target)
    assert POD(target).items() == [("a\\bü\tc", {"k": [1, "\\"]})]


def test_other_files_in_the_directory_do_not_matter(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [("a", 1)])
    for name in (".DS_Store", "00.json", "x.json", "1.json.bak", "1.json~"):
        (old / name).write_text("not ours")
    import_tastypy(old, target)
    assert POD(target) == {"a": 1}


# -- trackers -------------------------------------------------------------------------------------------------


def test_a_tracker_becomes_a_tracker(tmp_path: Path, target: Path) -> None:
    tasks = [
        ("a", {**TASK, "_done": True, "_tries": 2}),
        ("b", {**TASK, "out": [1]}),
        (3, {**TASK, "_aborted": True}),
    ]
    report = import_tastypy(write_old(tmp_path / "old", tasks), target)
    assert (report.kind, report.name) == ("tracker", "tracker")
    tracker = Tracker(target)
    assert tracker.items() == tasks
    assert (tracker.num_done(), tracker.num_tried(), tracker.num_aborted()) == (1, 1, 1)
    assert list(tracker.try_keys()) == ["b"]
    tracker.close()
    assert SharedTracker(target)["b"]["out"] == [1]


def test_one_value_that_is_no_task_makes_it_a_dict(tmp_path: Path, target: Path) -> None:
    report = import_tastypy(write_old(tmp_path / "old", [("a", TASK), ("b", {"_done": True})]), target)
    assert report.kind == "dict"
    assert SharedPOD(target)["a"] == TASK


# -- cut off at the end ---------------------------------------------------------------------------------------


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def test_a_missing_final_newline_is_nothing(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [("a", 1), ("b", "two")])
    cut(old / "0.json", -1)
    report = import_tastypy(old, target)
    assert POD(target) == {"a": 1, "b": "two"}
    assert (report.lost, report.doubtful) == ((), ())


def test_a_number_without_a_newline_may_have_been_longer(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [("a", 1), ("b", 12345)])
    cut(old / "0.json", -3)
    report = import_tastypy(old, target)
    assert POD(target) == {"a": 1, "b": 123}
    assert report.lost == () and "line 2" in report.doubtful[0] and "'b' is 123" in report.doubtful[0]


def test_a_cut_last_line_is_told_and_the_rest_comes_in(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [(n, {"text": "x" * 50}) for n in range(5)])
    cut(old / "1.json", -20)
    report = import_tastypy(old, target)
    assert POD(target).keys() == [0, 1, 2, 3]
    assert "1.json is cut off in line 2: the value of 4" in report.lost[0]
    assert "lost: 1.json" in str(report)


def test_a_last_line_that_is_cut_in_its_key_is_told(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [("a", 1), ("a long key", 2)])
    cut(old / "0.json", len(old_line("a", 1)) + 5)
    report = import_tastypy(old, target)
    assert POD(target) == {"a": 1}
    assert "an entry whose key is cut too" in report.lost[0]


def test_an_empty_last_file_is_told(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [(n, n) for n in range(5)])
    cut(old / "1.json", 0)
    report = import_tastypy(old, target)
    assert POD(target).keys() == [0, 1, 2]
    assert "1.json is empty" in report.lost[0]


def test_a_cut_last_gzip_file_gives_its_whole_lines(tmp_path: Path, target: Path) -> None:
    # Random text, so that most of the file is needed to unzip most of it.
    noise = random.Random(1)
    items: list[tuple[object, object]] = [(n, f"{noise.getrandbits(800):0200x}") for n in range(60)]
    old = write_old(tmp_path / "old", items, gzipped=True, file_size=30)
    cut(old / "1.json.gz", (old / "1.json.gz").stat().st_size * 2 // 3)
    report = import_tastypy(old, target)
    found = POD(target).items()
    assert 35 < len(found) < 60 and found == items[: len(found)]
    assert "1.json.gz is cut off" in report.lost[0]


@pytest.mark.parametrize("left", [0, 5, -1, -8])
def test_a_last_gzip_file_cut_near_its_ends_is_told(left: int, tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [("a", 1), ("b", 2)], gzipped=True, file_size=1)
    cut(old / "1.json.gz", left)
    report = import_tastypy(old, target)
    assert POD(target) == ({"a": 1, "b": 2} if left < 0 else {"a": 1})
    assert len(report.lost) == 1


@pytest.mark.parametrize("gzipped", [False, True])
def test_wherever_the_last_file_is_cut_a_prefix_comes_in(gzipped: bool, tmp_path: Path) -> None:
    items: list[tuple[object, object]] = [(f"key {n}", {"n": n, "text": "é\\" * n}) for n in range(4)]
    old = write_old(tmp_path / "old", items, gzipped=gzipped, file_size=2)
    last = max(old.iterdir())
    content = last.read_bytes()
    for length in range(0, len(content) + 1, 5):
        last.write_bytes(content[:length])
        import_tastypy(old, tmp_path / f"{length}.hold")
        with holdfast.open(tmp_path / f"{length}.hold", readonly=True) as hold:
            found = list(hold.dict("pod").items())
        assert found == items[: len(found)] and len(found) >= 2


# -- damaged elsewhere ----------------------------------------------------------------------------------------


def mend_line(file: Path, number: int, line: bytes) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    lines[number - 1] = line
    file.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'"b"\t{"cut": \n', "Expecting value"),
        (b'"b" 1\n', "no tab"),
        (b"\n", "no tab"),
        (b'"b\t1\n', "Unterminated string"),
        (b"1.5\t1\n", "can't be a key"),
        (b"null\t1\n", "can't be a key"),
        (b'"b"\t"\xff"\n', "utf-8"),
        (b'"b"\t' + b"[" * 100_000 + b"\n", "too deep"),
        (b'"a"\t1\n', "the key 'a' is in 0.json, line 1 already"),
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_line_is_named_and_nothing_is_written(
    line: bytes, said: str, number: int, tmp_path: Path, target: Path
) -> None:
    old = write_old(tmp_path / "old", [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6)])
    mend_line(old / f"{number}.json", 2, line)
    with pytest.raises(PersistentOrderedDictIntegrityError) as error:
        import_tastypy(old, target)
    assert f"{number}.json', line 2: " in str(error.value) and said in str(error.value)
    assert "nothing was imported" in str(error.value)
    assert not target.exists()


def test_a_cut_file_that_is_not_the_last_is_an_error(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [(n, n) for n in range(9)])
    cut(old / "1.json", -len(old_line(5, 5)))
    with pytest.raises(PersistentOrderedDictIntegrityError, match=r"1\.json' has 2 lines, and should have 3"):
        import_tastypy(old, target)
    cut(old / "1.json", 0)
    with pytest.raises(PersistentOrderedDictIntegrityError, match=r"1\.json' has 0 lines"):
        import_tastypy(old, target)


def test_a_cut_gzip_file_that_is_not_the_last_is_an_error(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [(n, n) for n in range(9)], gzipped=True)
    cut(old / "1.json.gz", -1)
    with pytest.raises(PersistentOrderedDictIntegrityError, match=r"1\.json\.gz' is cut off"):
        import_tastypy(old, target)


def test_a_changed_gzip_file_is_an_error_wherever_it_is(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [("a", "some text")], gzipped=True)
    file = old / "0.json.gz"
    content = bytearray(gzip.compress(old_line("a", "some text").encode(), compresslevel=0))
    content[-15] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(PersistentOrderedDictIntegrityError, match="can't be unzipped"):
        import_tastypy(old, target)


def test_a_missing_file_is_an_error(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [(n, n) for n in range(9)])
    (old / "1.json").unlink()
    with pytest.raises(PersistentOrderedDictIntegrityError, match=r"1\.json' is missing"):
        import_tastypy(old, target)


# -- what is not to be imported -------------------------------------------------------------------------------


def test_no_directory_a_file_and_another_directory_are_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(holdfast.MissingError, match="no directory"):
        import_tastypy(tmp_path / "nowhere", target)
    (tmp_path / "file").write_text("x")
    with pytest.raises(holdfast.InvalidError, match="is a file"):
        import_tastypy(tmp_path / "file", target)
    with pytest.raises(holdfast.InvalidError, match="no directory of tastypy"):
        import_tastypy(tmp_path, target)
    assert not target.exists()


def test_plain_and_gzipped_files_together_are_refused(tmp_path: Path, target: Path) -> None:
    old = write_old(tmp_path / "old", [("a", 1)])
    (old / "0.json.gz").write_bytes(gzip.compress(b'"b"\t1\n'))
    with pytest.raises(holdfast.InvalidError, match="two sets"):
        import_tastypy(old, target)


def test_a_directory_as_target_is_refused(tmp_path: Path) -> None:
    old = write_old(tmp_path / "old", [("a", 1)])
    with pytest.raises(holdfast.InvalidError, match="a hold is a file"):
        import_tastypy(old, old)


def test_a_structure_that_is_there_is_never_touched(tmp_path: Path, target: Path) -> None:
    with holdfast.open(target) as hold:
        hold.dict("pod")["mine"] = 1
        hold.tracker("tasks")
    old = write_old(tmp_path / "old", [("a", 1)])
    for name in (None, "tasks"):
        with pytest.raises(holdfast.InvalidError, match="already"):
            import_tastypy(old, target, name=name)
    import_tastypy(old, target, name="old")
    with holdfast.open(target) as hold:
        assert hold.dict("pod").copy() == {"mine": 1}
        assert hold.dict("old").copy() == {"a": 1}
        assert hold.check() == []


def test_an_import_that_failed_half_way_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, target: Path
) -> None:
    depth = 600  # which Python's JSON reads, and a hold refuses
    items: list[tuple[object, object]] = [("a", 1), ("deep", 2)]
    old = write_old(tmp_path / "old", items)
    mend_line(old / "0.json", 2, b'"deep"\t' + b"[" * depth + b"]" * depth + b"\n")
    with pytest.raises(holdfast.InvalidError, match="deep"):
        import_tastypy(old, target)
    mend_line(old / "0.json", 2, b'"deep"\t2\n')
    assert import_tastypy(old, target).entries == 2
    assert POD(target).items() == items


def test_progress_is_told_to_its_end(tmp_path: Path, target: Path) -> None:
    told: list[tuple[int, int]] = []
    old = write_old(tmp_path / "old", [(n, n) for n in range(9)])
    import_tastypy(old, target, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 6) for n in range(1, 7)]
