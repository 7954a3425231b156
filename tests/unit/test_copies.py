"""Copies of a hold: those that are whole open, with a node of their own; those that are not are refused."""

import shutil

import pytest

import holdfast


def node_of(hold: holdfast.Hold) -> int:
    return hold._journal.uid_of(hold._journal.here)


def test_a_backup_made_while_others_write_opens_with_what_was_there(tmp_path):
    with holdfast.open(tmp_path / "a.hold") as hold:
        entries = hold.dict("d")
        entries["before"] = {"n": 1}
        hold.backup(tmp_path / "b.hold")
        entries["after"] = 2
    assert sorted(path.name for path in tmp_path.glob("b.hold*")) == ["b.hold"]
    with holdfast.open(tmp_path / "b.hold") as copy:
        assert copy.dict("d").copy() == {"before": {"n": 1}} and copy.check() == []


def test_a_backup_never_overwrites(tmp_path):
    (tmp_path / "b.hold").write_text("mine")
    with holdfast.open(tmp_path / "a.hold") as hold, pytest.raises(holdfast.InvalidError, match=r"b\.hold"):
        hold.backup(tmp_path / "b.hold")
    assert (tmp_path / "b.hold").read_text() == "mine"


def test_a_copy_of_a_closed_hold_is_a_node_of_its_own(tmp_path):
    with holdfast.open(tmp_path / "a.hold") as hold:
        hold.dict("d")["k"] = 1
    shutil.copy(tmp_path / "a.hold", tmp_path / "b.hold")
    with holdfast.open(tmp_path / "a.hold") as one, holdfast.open(tmp_path / "b.hold") as other:
        assert node_of(one) != node_of(other)
        assert other.dict("d").copy() == {"k": 1}


def test_a_plain_copy_of_a_hold_in_use_is_refused_and_says_how_to_copy(tmp_path):
    with holdfast.open(tmp_path / "a.hold") as hold:
        hold.dict("d")["k"] = 1
        hold.sync()
        shutil.copy(tmp_path / "a.hold", tmp_path / "b.hold")
        with pytest.raises(holdfast.CorruptError, match=r"b\.hold.*hold\.backup"):
            holdfast.open(tmp_path / "b.hold")
