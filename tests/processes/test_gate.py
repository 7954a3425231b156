"""The gate: one writer at a time, in turn, and free again whatever becomes of its holder."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.engine import futex
from holdfast.engine.counter import Counter
from holdfast.engine.gate import Gate
from holdfast.errors import BusyError, ClosedError

TOTAL = 100  # a word of the counter that the tests count in
SECONDS = 1.0


def new_gate(path: str, wait_seconds: float = 30.0) -> Gate:
    return Gate(path, Counter(path), wait_seconds)


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(100)  # should the test be given up, nothing stays behind
        try:
            work()
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return pid


def end(*pids: int) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


class Signal:
    """One process tells another that it is so far."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()

    def give(self) -> None:
        os.write(self.write, b"x")

    def wait(self) -> None:
        assert os.read(self.read, 1) == b"x"


@pytest.fixture(params=["woken", "polling"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "polling":
        monkeypatch.setattr(futex, "AVAILABLE", False)
    return str(tmp_path / "x.hold")


def count_up(path: str, times: int) -> None:
    gate = new_gate(path)
    words = gate.counter.words
    for _ in range(times):
        gate.acquire(1)
        seen = words[TOTAL]
        if seen % 7 == 0:
            time.sleep(0)  # let others in, if they can
        words[TOTAL] = seen + 1
        gate.release(1)


def test_four_processes_never_are_inside_together(path: str) -> None:
    counter = Counter(path)
    assert end(*[in_child(lambda: count_up(path, 3000)) for _ in range(4)]) == [0] * 4
    assert counter.words[TOTAL] == 12_000


def test_threads_and_processes_never_are_inside_together(path: str) -> None:
    counter = Counter(path)

    def threaded() -> None:
        gate = new_gate(path)

        def count(owner: int) -> None:
            for _ in range(500):
                gate.acquire(owner)
                seen = gate.counter.words[TOTAL]
                time.sleep(0)
                gate.counter.words[TOTAL] = seen + 1
                gate.release(owner)

        threads = [threading.Thread(target=count, args=(owner,)) for owner in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert end(*[in_child(threaded) for _ in range(3)]) == [0] * 3
    assert counter.words[TOTAL] == 6000


@pytest.mark.parametrize("inside_seconds", [0.0, 0.0002, 0.005], ids=["short", "middle", "long"])
def test_processes_get_in_about_equally_often(path: str, inside_seconds: float) -> None:
    counter = Counter(path)

    def work(number: int) -> None:
        gate = new_gate(path)
        counter.words[300 + number] = 1
        while not all(counter.words[300:304]):
            time.sleep(0.001)
        until = time.monotonic() + SECONDS
        worst = 0.0
        while (began := time.monotonic()) < until:
            gate.acquire(1)
            worst = max(worst, time.monotonic() - began)
            leave = time.monotonic() + inside_seconds
            while time.monotonic() < leave:
                pass
            gate.release(1)
            counter.words[200 + number] += 1
        counter.words[400 + number] = int(worst * 1e6)

    assert end(*[in_child(lambda number=number: work(number)) for number in range(4)]) == [0] * 4
    times = list(counter.words[200:204])
    stalls = [stall / 1000 for stall in counter.words[400:404]]
    print(f"entered {times}, busiest/slowest {max(times) / min(times):.2f}, longest waits {stalls} ms")
    assert min(times) * 5 > max(times)


def test_back_to_back_long_writers_do_not_starve_a_newcomer(path: str) -> None:
    held, stop = Signal(), Counter(path)

    def hog() -> None:
        gate = new_gate(path)
        gate.acquire(1)
        held.give()
        while not stop.words[TOTAL]:
            time.sleep(0.02)
            gate.release(1)
            gate.acquire(1)

    pid = in_child(hog)
    held.wait()
    gate = new_gate(path, wait_seconds=20)
    for _ in range(5):
        gate.acquire("me")
        gate.release("me")
    stop.words[TOTAL] = 1
    assert end(pid) == [0]


def test_the_same_owner_may_enter_again_and_must_leave_as_often(path: str) -> None:
    gate = new_gate(path)
    other = new_gate(path)
    gate.acquire(("transaction", 1))
    gate.acquire(("transaction", 1))
    assert gate.held_by(("transaction", 1)) and gate.owner == ("transaction", 1)
    gate.release(("transaction", 1))
    with pytest.raises(BusyError):
        other.acquire(1, 0.0)
    gate.release(("transaction", 1))
    assert not gate.held_by(("transaction", 1)) and gate.owner is None
    other.acquire(1, 0.0)
    with pytest.raises(RuntimeError, match="not held"):
        gate.release(("transaction", 1))


def test_another_owner_of_the_same_process_waits(path: str) -> None:
    gate = new_gate(path)
    gate.acquire("one")
    with pytest.raises(BusyError, match="another thread of this process"):
        gate.acquire("two", 0.02)
    gate.release("one")
    gate.acquire("two", 0.02)


def test_threads_get_in_first_come_first_served() -> None:
    gate = Gate(None, Counter(None))
    gate.acquire("main")
    order: list[int] = []

    def enter(number: int) -> None:
        gate.acquire(number)
        order.append(number)
        gate.release(number)

    threads = []
    for number in range(6):
        threads.append(threading.Thread(target=enter, args=(number,)))
        threads[-1].start()
        while len(gate._queue) <= number:
            time.sleep(0.001)
    gate.release("main")
    for thread in threads:
        thread.join()
    assert order == list(range(6))


def test_who_waited_too_long_is_told_where_how_long_and_for_whom(path: str) -> None:
    held, done = Signal(), Signal()

    def hold() -> None:
        holder = new_gate(path)
        holder.acquire(1)
        held.give()
        done.wait()

    pid = in_child(hold)
    held.wait()
    gate = new_gate(path, wait_seconds=0.2)
    with pytest.raises(BusyError, match=rf"x\.hold.* by process {pid} for 0\.[2-9] s: try again"):
        gate.acquire(1)
    with pytest.raises(BusyError, match=f"by process {pid}"):
        gate.acquire(1, wait_seconds=0.0)
    done.give()
    end(pid)
    gate.acquire(1, wait_seconds=5)


def test_one_who_gave_up_stands_in_nobody_s_way(path: str) -> None:
    first, second, third = (new_gate(path) for _ in range(3))
    first.acquire(1)
    for _ in range(3):
        with pytest.raises(BusyError):
            second.acquire(1, 0.01)
    first.release(1)
    third.acquire(1, 0.0)
    third.release(1)
    second.acquire(1, 0.0)


def test_a_holder_that_is_killed_leaves_the_gate_free(path: str) -> None:
    for _ in range(5):
        held = Signal()

        def hold(held: Signal = held) -> None:
            holder = new_gate(path)
            holder.acquire(1)
            held.give()
            signal.pause()

        pid = in_child(hold)
        held.wait()
        gate = new_gate(path)
        killer = threading.Timer(0.02, os.kill, (pid, signal.SIGKILL))
        killer.start()
        gate.acquire(1)  # waits in the kernel when the holder dies
        assert end(pid) == [-signal.SIGKILL]
        gate.close()


def test_one_who_is_killed_while_having_the_turn_stands_in_nobody_s_way(path: str) -> None:
    gate = new_gate(path)
    gate.acquire(1)
    pid = in_child(lambda: new_gate(path).acquire(1))
    while not gate.counter.words[9]:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    end(pid)
    gate.release(1)
    for _ in range(3):
        gate.acquire(1, 1.0)
        gate.release(1)
    assert gate.counter.words[9] == 0


def test_keyboard_interrupt_ends_waiting_and_leaves_nothing_taken(path: str) -> None:
    first, second = new_gate(path), new_gate(path)
    first.acquire(1)
    main = threading.main_thread().ident
    assert main is not None
    for wait_for in (second, first):  # for another process, as it were, and for another thread
        timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            wait_for.acquire(2)
        timer.join()
    first.release(1)
    second.acquire(1, 1.0)
    second.release(1)
    first.acquire(2, 1.0)


def test_a_child_forked_while_a_thread_holds_the_gate_is_outside_and_waits(path: str) -> None:
    gate = new_gate(path)
    taken, leave = threading.Event(), threading.Event()

    def hold() -> None:
        gate.acquire("thread")
        taken.set()
        leave.wait()
        gate.release("thread")

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    tried = Signal()

    def child() -> None:
        gate.after_fork_child()
        gate.release("thread")  # a context manager that was left in the child: not its gate
        assert not gate.held_by("thread")
        with pytest.raises(BusyError, match=f"process {os.getppid()}"):
            gate.acquire("thread", 0.05)
        tried.give()
        gate.acquire("thread", 30)
        gate.counter.words[TOTAL] = 1
        gate.release("thread")

    pid = in_child(child)
    tried.wait()
    assert gate.counter.words[TOTAL] == 0
    leave.set()
    thread.join()
    assert end(pid) == [0]
    assert gate.counter.words[TOTAL] == 1


def test_a_child_that_dies_inside_does_not_take_its_parent_s_gate_along(path: str) -> None:
    gate = new_gate(path)
    gate.acquire(1)
    pid = in_child(lambda: (gate.after_fork_child(), os.kill(os.getpid(), signal.SIGKILL)))
    end(pid)
    with pytest.raises(BusyError):
        new_gate(path).acquire(1, 0.0)
    gate.release(1)


def test_the_lock_does_not_pass_to_programs_that_are_started(path: str) -> None:
    gate = new_gate(path)
    gate.acquire(1)
    program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gate.close()
    new_gate(path).acquire(1, 1.0)
    program.communicate(b"\n")


def test_a_closed_gate_says_so(path: str) -> None:
    gate = new_gate(path)
    gate.acquire(1)
    told: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(ClosedError) as caught:
            gate.acquire(2)
        told.append(caught.value)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(gate._queue) < 3:
        time.sleep(0.001)
    gate.close()
    for thread in threads:
        thread.join()
    assert len(told) == 3
    gate.release(1)
    with pytest.raises(ClosedError):
        gate.acquire(1)
    with pytest.raises(ClosedError):
        gate.presence()
    new_gate(path).acquire(1, 0.0)


# -- presence -----------------------------------------------------------------------------------------------


def test_presence_tells_whether_anybody_else_is_there(path: str) -> None:
    gate = new_gate(path)
    assert gate.presence()
    assert gate.presence(), "it does not count itself"
    came, leave = Signal(), Signal()

    def visit() -> None:
        visitor = new_gate(path)
        assert not visitor.presence()
        came.give()
        leave.wait()

    pid = in_child(visit)
    came.wait()
    assert not gate.presence()
    leave.give()
    assert end(pid) == [0]
    assert gate.presence()


def test_exactly_one_of_many_that_come_at_once_is_the_first(path: str) -> None:
    counter = Counter(path)

    def come() -> None:
        gate = new_gate(path)
        counter.words[TOTAL + 1] = 1
        first = gate.presence()
        gate.acquire(1)
        counter.words[TOTAL] += first
        counter.words[TOTAL + 2] += 1
        gate.release(1)
        while counter.words[TOTAL + 2] < 8:
            time.sleep(0.001)

    assert end(*[in_child(come) for _ in range(8)]) == [0] * 8
    assert counter.words[TOTAL] == 1


def test_a_forked_child_stays_present_without_doing_anything(path: str) -> None:
    gate = new_gate(path)
    gate.presence()
    leave = Signal()

    def child() -> None:
        gate.after_fork_child()
        leave.wait()

    pid = in_child(child)
    gate.close()
    newcomer = new_gate(path)
    assert not newcomer.presence()
    leave.give()
    end(pid)
    assert newcomer.presence()


def test_a_side_file_deleted_between_two_steps_is_not_used(path: str) -> None:
    counter = Counter(path)
    os.unlink(path + "-seq")
    gate = Gate(path, counter)
    assert not counter.moved()
    os.unlink(path + "-seq")
    assert gate.presence()
    assert not gate.moved()
    gate.acquire(1)
    with pytest.raises(BusyError):
        new_gate(path).acquire(1, 0.0)
