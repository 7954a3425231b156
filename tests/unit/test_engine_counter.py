"""The counter: seeing that another wrote, and sleeping until it does."""

import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from holdfast.engine import futex
from holdfast.engine.counter import BYTES, Counter

LONG = 30.0


@pytest.fixture(params=["woken", "polling"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "polling":
        monkeypatch.setattr(futex, "AVAILABLE", False)
    return str(tmp_path / "x.hold")


def test_two_counters_of_one_hold_show_the_same_words(path: str) -> None:
    one, other = Counter(path), Counter(path)
    one.words[0] = (1 << 64) - 2
    assert other.words[0] == (1 << 64) - 2
    assert os.path.getsize(path + "-seq") == BYTES


def test_a_counter_in_memory_is_its_own() -> None:
    one, other = Counter(None), Counter(None)
    one.words[0] = 3
    assert other.words[0] == 0
    assert not one.wait(0, 0.01)
    one.landed(3)
    assert one.wait(0, 0.0)


def test_waiting_ends_without_a_change_when_its_time_is_over(path: str) -> None:
    assert Counter(path).wait(0, 0.05) is False


def test_a_change_that_came_before_is_seen_at_once(path: str) -> None:
    counter = Counter(path)
    counter.landed(1)
    assert counter.wait(0, LONG)


def test_another_process_wakes_who_waits(path: str) -> None:
    counter = Counter(path)
    for seq in range(1, 20):
        ready, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(ready, 1)
            Counter(path).landed(seq)
            os._exit(0)
        os.write(go, b"x")
        assert counter.wait(seq - 1, LONG)
        assert counter.words[1] == seq
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(go)


def test_all_threads_that_wait_are_woken_and_others_run_on(path: str) -> None:
    counter = Counter(path)
    woken: list[bool] = []
    threads = [threading.Thread(target=lambda: woken.append(counter.wait(0, LONG))) for _ in range(5)]
    for thread in threads:
        thread.start()
    Counter(path).landed(1)
    for thread in threads:
        thread.join()
    assert woken == [True] * 5


def test_nobody_is_woken_if_nobody_waits(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(futex, "wake", lambda *_: pytest.fail("a system call for nobody"))
    counter = Counter(path)
    for seq in range(1, 4):
        counter.landed(seq)


def test_keyboard_interrupt_ends_waiting(path: str) -> None:
    counter = Counter(path)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        counter.wait(0, LONG)
    timer.join()


def test_waiting_idly_costs_almost_nothing(path: str) -> None:
    counter = Counter(path)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    counter.wait(0, 1.0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{used * 1000:.2f} ms of processor time in {time.monotonic() - began:.2f} s")
    assert used < 0.05  # 0.1 to 2 ms when the machine is quiet


def test_a_deleted_file_is_noticed_and_can_be_attached_anew(path: str) -> None:
    counter = Counter(path)
    assert not counter.moved()
    os.unlink(path + "-seq")
    assert counter.moved()
    fresh = Counter(path)
    fresh.words[0] = 5
    assert counter.moved()
    counter.attach_again()
    assert not counter.moved()
    assert counter.words[0] == 5


def test_a_short_file_is_filled_up_and_keeps_its_words(path: str) -> None:
    Path(path + "-seq").write_bytes((9).to_bytes(8, "little"))
    assert Counter(path).words[0] == 9
    assert os.path.getsize(path + "-seq") == BYTES


def test_a_reader_sees_the_words_and_can_t_write_them(path: str) -> None:
    writer = Counter(path)
    reader = Counter(path, readonly=True)
    writer.words[0] = 4
    writer.landed(4)
    assert (reader.words[0], reader.words[1]) == (4, 4)
    with pytest.raises(TypeError):
        reader.words[0] = 1
    assert reader.wait(3, LONG)
    assert not reader.wait(4, 0.01)


def test_a_reader_without_the_file_never_seems_fresh_and_looks_again_now_and_then(path: str) -> None:
    reader = Counter(path, readonly=True)
    assert not os.path.exists(path + "-seq")
    assert reader.words[0] == (1 << 64) - 1
    assert reader.wait(0, 0.01)
