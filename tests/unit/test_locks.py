"""A lock by hand, and what may happen inside it."""

import pytest

import holdfast


@pytest.mark.parametrize("shared", [False, True])
def test_inside_a_lock_everything_works(tmp_path, shared):
    with holdfast.open(tmp_path / "a.hold", shared=shared, wait_seconds=1.0) as hold:
        entries, tasks = hold.dict("d"), hold.tracker("t")
        with entries.locked(), hold.locked():
            entries.update(a=1, b=2)
            entries.set["a"] += 1
            with hold.transaction(), hold.transaction():
                entries["b"] = 3
                with entries.locked():
                    tasks.add("x")
            assert tasks.claim("w")[0].key == "x"
            entries.clear()
            entries["c"] = 1
        entries["d"] = 2
        assert entries.copy() == {"c": 1, "d": 2} and hold.check() == []


def test_unlocking_what_is_not_locked_is_refused(tmp_path):
    with holdfast.open(tmp_path / "a.hold") as hold, pytest.raises(holdfast.InvalidError, match="not locked"):
        hold.unlock()
