"""Real processes on one hold: handles travel, changes are atomic and exact, and no reader sees what is outdated."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import holdfast

METHODS = ("fork", "spawn", "forkserver")
fork = multiprocessing.get_context("fork")


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[holdfast.Hold]:
    with holdfast.open(tmp_path / "s.hold", shared=True) as opened:
        yield opened
        assert opened.check() == []


def start(count: int, work: Callable[..., None], *given: Any, method: str = "fork") -> list[BaseProcess]:
    context: Any = multiprocessing.get_context(method)
    processes = [context.Process(target=work, args=(number, *given)) for number in range(count)]
    for process in processes:
        process.start()
    return processes


def join(processes: list[BaseProcess], seconds: float = 60) -> None:
    for process in processes:
        process.join(seconds)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive, "a process hangs"
    assert [process.exitcode for process in processes] == [0] * len(processes)


def together(count: int, work: Callable[..., None], *given: Any, method: str = "fork") -> None:
    join(start(count, work, *given, method=method))


# -- handles travel -------------------------------------------------------------------------------------------


def use_all(number: int, hold: holdfast.Hold, dictionary: holdfast.Dict, tracker: holdfast.Tracker) -> None:
    assert dictionary["given"] == {"n": [1, 2]}
    dictionary.set["count"] += 1
    hold.dict("other")[number] = True
    for task in tracker.claim(f"w{number}"):
        tracker.finish(task, by=number)


@pytest.mark.parametrize("method", METHODS)
def test_hold_dict_and_tracker_travel_to_a_process(hold: holdfast.Hold, method: str) -> None:
    dictionary, tracker = hold.dict("d"), hold.tracker("t")
    dictionary["given"] = {"n": [1, 2]}
    dictionary["count"] = 0
    tracker.add_many_if_absent(["a", "b"])
    together(2, use_all, hold, dictionary, tracker, method=method)
    assert dictionary["count"] == 2
    assert set(hold.dict("other")) == {0, 1}
    assert tracker.num_done() == 2


def count_one(dictionary: holdfast.Dict) -> int:
    dictionary.set["count"] += 1
    return os.getpid()


@pytest.mark.parametrize("method", METHODS)
def test_a_dict_travels_to_a_pool(hold: holdfast.Hold, method: str) -> None:
    dictionary = hold.dict("d")
    dictionary["count"] = 0
    with multiprocessing.get_context(method).Pool(2) as pool:
        pids = pool.map(count_one, [dictionary] * 20, chunksize=1)
        pool.close()
        pool.join()
    assert os.getpid() not in pids
    assert dictionary["count"] == 20


def from_queue(number: int, questions: Any, answers: Any) -> None:
    dictionary = questions.get()
    dictionary.set["log"].append(number)
    answers.put(dictionary)


def test_a_dict_travels_through_a_queue_and_back(hold: holdfast.Hold) -> None:
    dictionary = hold.dict("d")
    dictionary["log"] = []
    context = multiprocessing.get_context("spawn")
    questions, answers = context.Queue(), context.Queue()
    questions.put(dictionary)
    processes = start(1, from_queue, questions, answers, method="spawn")
    returned = answers.get(timeout=30)
    join(processes)
    assert returned["log"] == dictionary["log"] == [0]


def from_pipe(number: int, end: Any) -> None:
    dictionary = end.recv()
    dictionary["from"] = number
    end.send(dictionary["to"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_dict_travels_through_a_pipe(hold: holdfast.Hold, method: str) -> None:
    dictionary = hold.dict("d")
    dictionary["to"] = "child"
    ours, theirs = multiprocessing.get_context(method).Pipe()
    processes = start(1, from_pipe, theirs, method=method)
    ours.send(dictionary)
    assert ours.poll(30) and ours.recv() == "child"
    join(processes)
    assert dictionary["from"] == 0


def test_an_unrelated_program_shares_the_hold(hold: holdfast.Hold) -> None:
    dictionary = hold.dict("d")
    dictionary["a"] = {"n": 1}
    held = dictionary["a"]
    program = (
        "import sys, holdfast\n"
        "with holdfast.open(sys.argv[1], shared=True) as hold:\n"
        "    hold.dict('d').set['a']['n'] += 41\n"
    )
    subprocess.run([sys.executable, "-c", program, hold.path], check=True, timeout=30)
    assert dictionary["a"] == {"n": 42}
    assert held["n"] == 42  # what was held is the same object, changed in place


# -- atomic, exact, and to be kept out ------------------------------------------------------------------------


def count(number: int, dictionary: holdfast.Dict, times: int) -> None:
    for _ in range(times):
        dictionary.set["n"] += 1


def count_nested(number: int, dictionary: holdfast.Dict, times: int) -> None:
    for _ in range(times):
        dictionary.set["a"]["deep"][0]["n"] += 1


@pytest.mark.parametrize("times", [500, pytest.param(10_000, marks=pytest.mark.soak)])
def test_increments_of_eight_processes_are_exact(hold: holdfast.Hold, times: int) -> None:
    dictionary = hold.dict("d")
    dictionary["n"] = 0
    join(start(8, count, dictionary, times), 600)
    assert dictionary["n"] == 8 * times


def test_nested_increments_of_eight_processes_are_exact(hold: holdfast.Hold) -> None:
    dictionary = hold.dict("d")
    dictionary["a"] = {"deep": [{"n": 0}]}
    together(8, count_nested, dictionary, 200)
    assert dictionary["a"] == {"deep": [{"n": 1600}]}


def fail_inside(number: int, dictionary: holdfast.Dict) -> None:
    with pytest.raises(ZeroDivisionError):
        dictionary.set["a"]["n"] //= 0
    with pytest.raises(ValueError):
        dictionary.set["a"]["l"].remove("not there")
    with pytest.raises(TypeError):
        dictionary.set["a"]["l"].sort(key=lambda item: item + "x")


def test_an_exception_inside_set_reaches_the_caller_and_writes_nothing(hold: holdfast.Hold) -> None:
    dictionary = hold.dict("d")
    dictionary["a"] = {"n": 1, "l": [3, 1, 2]}
    cursor = hold.since().cursor
    together(2, fail_inside, dictionary)
    assert dictionary["a"] == {"n": 1, "l": [3, 1, 2]}
    assert hold.since().cursor == cursor


def set_when_let(number: int, dictionary: holdfast.Dict, trying: Any, done: Any) -> None:
    trying.set()
    dictionary["n"] = "theirs"
    done.set()


def test_lock_keeps_others_out(hold: holdfast.Hold) -> None:
    dictionary = hold.dict("d")
    trying, done = fork.Event(), fork.Event()
    dictionary.lock()
    processes = start(1, set_when_let, dictionary, trying, done)
    assert trying.wait(10)
    dictionary["n"] = "ours"
    assert not done.wait(0.3)
    assert dictionary["n"] == "ours"
    dictionary.unlock()
    assert done.wait(10)
    join(processes)
    assert dictionary["n"] == "theirs"


# -- nothing outdated -----------------------------------------------------------------------------------------


def write_on(number: int, dictionary: holdfast.Dict, acknowledged: Any, stop: Any) -> None:
    sequence = 0
    while not stop.value:
        sequence += 1
        dictionary["k"] = sequence
        acknowledged.value = sequence


def read_on(number: int, dictionary: holdfast.Dict, acknowledged: Any, reads: int) -> None:
    newest = 0
    for _ in range(reads):
        at_least = acknowledged.value
        found = dictionary["k"]
        assert found >= at_least and found >= newest, (found, at_least, newest)
        newest = found
    assert newest > 0, "the writer wrote nothing meanwhile"


@pytest.mark.parametrize("reads", [25_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_no_read_beside_a_writer_is_stale(hold: holdfast.Hold, reads: int) -> None:
    dictionary = hold.dict("d")
    dictionary["k"] = 0
    acknowledged, stop = fork.Value("q", 0, lock=False), fork.Value("b", 0, lock=False)
    writers = start(1, write_on, dictionary, acknowledged, stop)
    try:
        join(start(2, read_on, dictionary, acknowledged, reads), 600)
    finally:
        stop.value = 1
    join(writers)
    assert dictionary["k"] == acknowledged.value


# -- a tracker's workers --------------------------------------------------------------------------------------


def work_off(number: int, tracker: holdfast.Tracker, finished: Any, holding: Any) -> None:
    """Worker 0 claims five tasks and waits for its death with them."""
    if number == 0:
        tracker.claim("w0", lease_seconds=1.0, most=5)
        holding.set()
        signal.pause()
    assert holding.wait(30)
    while tracker.num_done() < len(tracker):
        for task in tracker.claim(f"w{number}", lease_seconds=30, most=3):
            tracker.finish(task, by=number)
            finished.put(task.key)
    finished.put(None)


def test_each_task_is_finished_once_though_a_worker_is_killed(hold: holdfast.Hold) -> None:
    tracker = hold.tracker("t")
    tracker.add_many_if_absent(range(200))
    finished, holding = fork.Queue(), fork.Event()
    killed, *workers = start(4, work_off, tracker, finished, holding)
    assert holding.wait(30)
    killed.kill()
    killed.join(10)
    keys, ended = [], 0
    while ended < len(workers):
        if (key := finished.get(timeout=30)) is None:
            ended += 1
        else:
            keys.append(key)
    join(workers)
    assert sorted(keys) == list(range(200))
    assert tracker.num_done() == 200
    assert sorted(tracker.tries(key) for key in tracker) == [1] * 195 + [2] * 5
