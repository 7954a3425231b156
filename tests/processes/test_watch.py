"""Watching from other processes: every change once and in order, at no cost while nothing happens."""

import gc
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import holdfast

fork = multiprocessing.get_context("fork")
WRITERS, TIMES = 3, 200


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[holdfast.Hold]:
    with holdfast.open(tmp_path / "w.hold", shared=True) as opened:
        yield opened
        assert opened.check() == []


def start(count: int, work: Callable[..., None], *given: Any) -> list[Any]:
    processes = [fork.Process(target=work, args=(number, *given)) for number in range(count)]
    for process in processes:
        process.start()
    return processes


def join(processes: list[Any]) -> None:
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def take(watcher: holdfast.Watcher, count: int) -> list[holdfast.Change]:
    """That many changes; fewer if none comes for ten seconds."""
    changes: list[holdfast.Change] = []
    while len(changes) < count and (change := watcher.poll(10)) is not None:
        changes.append(change)
    return changes


def write(number: int, dictionary: holdfast.Dict) -> None:
    for value in range(TIMES):
        dictionary[f"w{number}"] = value


def write_and_fold(number: int, dictionary: holdfast.Dict, hold: holdfast.Hold) -> None:
    for value in range(TIMES):
        dictionary[f"w{number}"] = value
        if value % 20 == number:
            hold.fold()


def assert_each_once_in_order(changes: list[holdfast.Change]) -> None:
    for number in range(WRITERS):
        assert [c.value for c in changes if c.key == f"w{number}"] == list(range(TIMES))
    cursors = [change.cursor for change in changes]
    assert cursors == sorted(cursors)
    assert len(set(cursors)) == len(cursors)


def test_every_change_comes_once_and_in_order(hold: holdfast.Hold) -> None:
    dictionary = hold.dict("d")
    hold.dict("not watched")["x"] = 1
    with hold.watch("d") as watcher:
        processes = start(WRITERS, write, dictionary)
        changes = take(watcher, WRITERS * TIMES)
        join(processes)
        assert watcher.poll(0) is None
    assert_each_once_in_order(changes)


def test_every_change_comes_once_though_it_is_folded_meanwhile(hold: holdfast.Hold) -> None:
    dictionary = hold.dict("d")
    with hold.watch("d") as watcher:
        processes = start(WRITERS, write_and_fold, dictionary, hold)
        changes = take(watcher, WRITERS * TIMES)
        join(processes)
        assert watcher.poll(0) is None
    assert_each_once_in_order(changes)


def change_all(number: int, dictionary: holdfast.Dict) -> None:
    dictionary["a"] = {"n": 1}
    dictionary.set["a"]["n"] += 1
    del dictionary["a"]
    dictionary["a"] = 3


def test_deletions_come_in_their_place(hold: holdfast.Hold) -> None:
    with hold.watch() as watcher:
        join(start(1, change_all, hold.dict("d")))
        changes = take(watcher, 4)
    assert [(c.structure, c.key, c.kind, c.value) for c in changes] == [
        ("d", "a", "set", {"n": 1}),
        ("d", "a", "set", {"n": 2}),
        ("d", "a", "deleted", None),
        ("d", "a", "set", 3),
    ]


def test_an_error_in_a_callback_does_not_stop_delivery(
    hold: holdfast.Hold, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    all_seen = threading.Event()

    def callback(change: holdfast.Change) -> None:
        seen.append(change.value)
        if change.value == TIMES - 1:
            all_seen.set()
        if change.value % 50 == 0:
            raise ValueError("a callback's own error")

    with caplog.at_level(logging.ERROR, "holdfast"), hold.on_change(callback):
        join(start(1, write, hold.dict("d")))
        assert all_seen.wait(10)
    assert seen == list(range(TIMES))
    assert sum("a callback for changes failed" in record.message for record in caplog.records) == 4


def watch_idly(number: int, path: str, used: Any) -> None:
    with holdfast.open(path, shared=True) as hold, hold.watch() as watcher:
        before = time.process_time()
        assert watcher.poll(2.0) is None
        used.value = time.process_time() - before


def wait_in_iteration(number: int, path: str, used: Any) -> None:
    with holdfast.open(path, shared=True) as hold:
        watcher = hold.watch()
        threading.Timer(2.0, watcher.close).start()
        before = time.process_time()
        assert list(watcher) == []
        used.value = time.process_time() - before


@pytest.mark.parametrize("wait", [watch_idly, wait_in_iteration])
def test_a_watcher_that_waits_costs_nothing(
    hold: holdfast.Hold, wait: Callable[[int, str, Any], None]
) -> None:
    used = fork.Value("d", -1.0)
    join(start(1, wait, hold.path, used))
    print(f"{used.value / 2:.2%} of a processor")
    assert 0 <= used.value / 2 < 0.05  # the bar is 1 %; this machine may be busy


def test_close_from_another_thread_ends_the_iteration(hold: holdfast.Hold) -> None:
    watcher = hold.watch()
    got: list[holdfast.Change] = []
    thread = threading.Thread(target=lambda: got.extend(watcher), daemon=True)
    thread.start()
    hold.dict("d")["a"] = 1
    watcher.close()
    thread.join(5)
    assert not thread.is_alive()
    assert len(got) <= 1


def test_closing_the_hold_ends_the_iteration(tmp_path: Path) -> None:
    hold = holdfast.open(tmp_path / "c.hold", shared=True)
    watcher = hold.watch()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            list(watcher)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    hold.close()
    thread.join(5)
    assert not thread.is_alive()
    assert all(isinstance(error, holdfast.ClosedError) for error in errors), errors


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are listed in /proc")
@pytest.mark.parametrize("shared", [False, True])
def test_nothing_is_left_after_close(tmp_path: Path, shared: bool) -> None:
    def use(name: str) -> None:
        with holdfast.open(tmp_path / name, shared=shared, sync_seconds=0.05) as hold:
            with hold.on_change(lambda change: None), hold.watch() as watcher:
                hold.dict("d")["a"] = {"n": 1}
                hold.sync()
                assert watcher.poll(5) is not None
            with hold.transaction():
                hold.dict("d")["b"] = 2

    use("first.hold")  # what the process opens once and keeps
    gc.collect()
    descriptors, threads = os.listdir("/proc/self/fd"), set(threading.enumerate())
    for number in range(5):
        use(f"{number}.hold")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    left = set(threading.enumerate()) - threads
    for thread in left:
        thread.join(2)
    assert not any(thread.is_alive() for thread in left), left
