"""What the original of tastypy did wrong is right here, and bad input gets a clear error."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.compat.programs import run, start, write_old

import holdfast
from holdfast.compat.tastypy import (
    POD,
    PersistentOrderedDictException,
    PersistentOrderedDictIntegrityError,
    SharedPOD,
    Tracker,
)


def test_gzipped_data_can_be_opened_again(tmp_path: Path) -> None:
    code = "from holdfast.compat.tastypy import POD; p = POD('my.pod', gzipped=True); p.setdefault('n', 0); p['n'] += 1"
    for _ in range(3):
        run(code, tmp_path)
    assert POD(tmp_path / "my.pod", gzipped=True)["n"] == 3


def test_tuple_keys_are_synced(tmp_path: Path) -> None:
    run(
        "from holdfast.compat.tastypy import POD; POD('my.pod').update({('a', (1, 'b')): 1, 'c': 2})",
        tmp_path,
    )
    assert POD(tmp_path / "my.pod").items() == [(("a", (1, "b")), 1), ("c", 2)]


UNSERIALISABLE = [{1, 2}, object(), b"bytes", {"deep": [1, {"er": {3}}]}, {("tuple", "key"): 1}, 1j]


@pytest.mark.parametrize("value", UNSERIALISABLE, ids=lambda value: type(value).__name__)
def test_an_unserialisable_value_is_noticed_at_the_assignment(value: object, tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", init={"a": [1], "b": {"c": 1}})
    for put in (
        lambda: pod.__setitem__("a", value),
        lambda: pod.__setitem__("new", value),
        lambda: pod["a"].append(value),
        lambda: pod["b"].update(d=value),
        lambda: pod.set["b"].__setitem__("c", value),
        lambda: pod.setdefault("new", value),
    ):
        with pytest.raises(ValueError, match="JSON"):
            put()
    assert pod == {"a": [1], "b": {"c": 1}}
    pod["later"] = 1
    pod.sync()
    pod.revert()
    assert pod == {"a": [1], "b": {"c": 1}, "later": 1}


def test_a_value_that_contains_itself_is_refused(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod")
    loop: list[object] = []
    loop.append({1: loop})
    with pytest.raises(ValueError, match="contains itself"):
        pod["a"] = loop
    assert pod == {}


def test_a_refused_init_leaves_the_rest_and_closes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        POD(tmp_path / "my.pod", init=[("a", 1), ("b", {1})])
    with holdfast.open(tmp_path / "my.pod", shared=True) as hold:  # which an open POD would contradict
        assert hold.check() == []


def test_a_task_that_is_no_dict_is_refused(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "tasks")
    with pytest.raises(ValueError, match="a task is a dict"):
        tracker["a"] = 5
    with pytest.raises(ValueError, match="a task is a dict"):
        Tracker(tmp_path / "tasks", init={"a": None})
    assert tracker == {}


WRITER = """
    import sys
    from holdfast.compat.tastypy import POD
    pod = POD('my.pod', sync_at={sync_at})
    first = len(pod)
    for n in range(first, 10**9):
        pod[n] = {{'n': n, 'filling': 'x' * 100}}
        pod['last'] = n
        pod.sync()
        print(n, flush=True)
"""


def test_kill_9_loses_nothing_that_was_synced_and_the_pod_opens(tmp_path: Path, seed: int) -> None:
    for round_number in range(6):
        program = start(WRITER.format(sync_at=5), tmp_path)
        assert program.stdout is not None
        told = -1
        for _ in range(20 + (seed >> round_number) % 50):
            told = int(program.stdout.readline())
        program.kill()
        out, _ = program.communicate()
        told = max([told, *(int(line) for line in out.splitlines()[:-1])])
        pod = POD(tmp_path / "my.pod")
        assert pod["last"] >= told
        assert pod[told] == {"n": told, "filling": "x" * 100}
        pod.close()
        with holdfast.open(tmp_path / "my.pod") as hold:
            assert hold.check() == []


def test_killing_the_parent_of_a_shared_pod_leaves_no_server(tmp_path: Path) -> None:
    program = start(
        """
        import os, threading
        from holdfast.compat.tastypy import SharedPOD
        pod = SharedPOD('my.pod')
        pod['a'] = 1
        me = f'/proc/{os.getpid()}/task'
        print(len(os.listdir(me)), open(f'{me}/{os.getpid()}/children').read(), flush=True)
        threading.Event().wait(30)
        """,
        tmp_path,
    )
    assert program.stdout is not None
    assert program.stdout.readline().split() == ["1"]  # one thread, no children
    program.kill()
    assert program.wait() == -signal.SIGKILL
    program.communicate()
    assert SharedPOD(tmp_path / "my.pod")["a"] == 1


def test_a_killed_holder_of_the_lock_frees_it(tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod")
    program = start(
        """
        import threading
        from holdfast.compat.tastypy import SharedPOD
        pod = SharedPOD('my.pod')
        pod.lock()
        print('locked', flush=True)
        threading.Event().wait(30)
        """,
        tmp_path,
    )
    assert program.stdout is not None and program.stdout.readline() == "locked\n"
    program.kill()
    pod["a"] = 1
    program.communicate()
    assert pod["a"] == 1


def test_random_updates_write_little(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", init=dict.fromkeys(range(5000), "x" * 1000))
    pod.sync()
    pod.close()
    before = os.stat(tmp_path / "my.pod").st_size
    pod = POD(tmp_path / "my.pod")
    for n in range(0, 5000, 500):
        pod[n] = "y"
    pod.sync()
    assert os.stat(tmp_path / "my.pod-wal").st_size < before / 10


# -- what lies at the path ------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", [POD, SharedPOD, Tracker])
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_directory_of_the_original_is_refused_and_left_alone(face, gzipped: bool, tmp_path: Path) -> None:
    old = write_old(tmp_path / "old pod", [("a", 1), ("b", 2)], gzipped=gzipped, file_size=1)
    before = {file.name: file.read_bytes() for file in old.iterdir()}
    with pytest.raises(ValueError) as refusal:
        face(old)
    assert f"holdfast import tastypy '{old}'" in str(refusal.value)
    assert {file.name: file.read_bytes() for file in old.iterdir()} == before
    assert os.listdir(tmp_path) == ["old pod"]


def test_another_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty directory"):
        POD(tmp_path)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is a directory"):
        POD(tmp_path)


@pytest.mark.parametrize("content", [b'{"a": 1}', b"\x80\x04}", b"SQLite format 3\x00" + b"\x07" * 200])
def test_another_file_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "my.pod").write_bytes(content)
    with pytest.raises(PersistentOrderedDictIntegrityError, match=r"my\.pod"):
        POD(tmp_path / "my.pod")
    assert (tmp_path / "my.pod").read_bytes() == content


def test_errors_are_caught_as_those_of_the_original_and_as_ours(tmp_path: Path) -> None:
    (tmp_path / "my.pod").write_bytes(b"something else")
    for kind in (PersistentOrderedDictException, holdfast.CorruptError, holdfast.HoldfastError):
        with pytest.raises(kind):
            POD(tmp_path / "my.pod")


def test_a_pod_and_a_shared_pod_on_one_path_in_one_process_contradict(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", init={"a": 1})
    with pytest.raises(ValueError, match="shared"):
        SharedPOD(tmp_path / "my.pod")
    pod.close()
    assert SharedPOD(tmp_path / "my.pod") == {"a": 1}


def test_importing_the_face_needs_nothing_more_than_holdfast() -> None:
    code = "import sys, holdfast.compat.tastypy; assert not {'click', 'rich', 'multiprocessing'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
