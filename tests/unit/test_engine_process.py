"""What is told of forks, exits and signals, and in which order."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from holdfast.engine import process

HEAD = """
import os, signal, sys, threading, time
from holdfast.engine import process

class Member:
    def __init__(self, name): self.name = name
    def before_fork(self): say(self.name, "before fork")
    def after_fork_parent(self): say(self.name, "parent")
    def after_fork_child(self): say(self.name, "child")
    def at_exit(self): say(self.name, "exit")

def say(*words): os.write(1, (" ".join(words) + "\\n").encode())
"""


def run(body: str) -> tuple[list[str], int, str]:
    """What a program with this body says, its exit status and its complaints."""
    program = HEAD + textwrap.dedent(body)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return result.stdout.splitlines(), result.returncode, result.stderr


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) in (before, process._on_signal)


# -- exit ---------------------------------------------------------------------------------------------------


def test_at_exit_the_last_registered_goes_first() -> None:
    said, status, _ = run("a, b = Member('a'), Member('b'); process.register(a); process.register(b)")
    assert (said, status) == (["b exit", "a exit"], 0)


def test_at_exit_runs_after_an_exception_too() -> None:
    said, status, _ = run("a = Member('a'); process.register(a); raise ValueError")
    assert (said, status) == (["a exit"], 1)


def test_one_who_fails_at_exit_is_told_and_costs_the_others_nothing() -> None:
    said, _, complaints = run("""
        class Bad(Member):
            def at_exit(self): raise RuntimeError("no room")
        a, b = Member('a'), Bad('b'); process.register(a); process.register(b)
    """)
    assert said == ["a exit"]
    assert "RuntimeError: no room" in complaints


def test_who_is_forgotten_or_dead_is_told_nothing() -> None:
    said, _, _ = run("""
        a, b, c = Member('a'), Member('b'), Member('c')
        for m in (a, b, c): process.register(m)
        process.forget(b)
        del c, m
    """)
    assert said == ["a exit"]


# -- fork ---------------------------------------------------------------------------------------------------


def test_before_a_fork_the_last_registered_rests_first_and_wakes_last() -> None:
    said, _, _ = run("""
        a, b = Member('a'), Member('b'); process.register(a); process.register(b)
        pid = os.fork()
        if not pid: os._exit(0)
        os.waitpid(pid, 0)
        os._exit(0)
    """)
    assert said[:2] == ["b before fork", "a before fork"]
    assert [line for line in said if "parent" in line] == ["a parent", "b parent"]
    assert [line for line in said if "child" in line] == ["a child", "b child"]


class Flag:
    """Says by a byte that its process came to its end."""

    def __init__(self, out: int) -> None:
        self.out = out

    def before_fork(self) -> None: ...

    def after_fork_child(self) -> None: ...

    def at_exit(self) -> None:
        os.write(self.out, b"x")


def register_and_leave(out: int) -> None:
    global kept
    kept = Flag(out)
    process.register(kept)


def just_leave() -> None:
    """The parent's registration counts here as well."""


@pytest.mark.parametrize("registered_in", ["parent", "child"])
def test_a_forked_multiprocessing_child_runs_at_exit(registered_in: str) -> None:
    read, write = os.pipe()
    context = multiprocessing.get_context("fork")
    flag = Flag(write)
    if registered_in == "parent":
        process.register(flag)
        child = context.Process(target=just_leave)
    else:
        child = context.Process(target=register_and_leave, args=(write,))
    child.start()
    child.join()
    process.forget(flag)
    os.close(write)
    with open(read, "rb") as said:
        assert said.read() == b"x"


def test_a_spawned_multiprocessing_child_runs_at_exit(tmp_path: os.PathLike[str]) -> None:
    script = os.path.join(tmp_path, "main.py")
    with open(script, "w") as file:
        file.write(
            HEAD
            + textwrap.dedent("""
            import multiprocessing
            def work():
                global kept
                kept = Member("child"); process.register(kept)
            if __name__ == "__main__":
                child = multiprocessing.get_context("spawn").Process(target=work)
                child.start(); child.join()
            """)
        )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert set(result.stdout.splitlines()) == {"child exit"}, (
        result.stderr
    )  # by multiprocessing, and by atexit


# -- signals ------------------------------------------------------------------------------------------------


def test_sigterm_runs_at_exit_and_the_status_is_the_signal_s() -> None:
    said, status, _ = run("a = Member('a'); process.register(a); os.kill(os.getpid(), 15); time.sleep(30)")
    assert (said, status) == (["a exit"], -signal.SIGTERM)


def test_sigterm_is_passed_to_the_handler_that_was_there() -> None:
    said, status, _ = run("""
        def handler(signum, frame): say("user", str(signum)); sys.exit(7)
        signal.signal(signal.SIGTERM, handler)
        a = Member('a'); process.register(a)
        os.kill(os.getpid(), 15); time.sleep(30)
    """)
    assert (said, status) == (["a exit", "user 15", "a exit"], 7)


def test_life_goes_on_after_a_handler_that_returns() -> None:
    said, status, _ = run("""
        signal.signal(signal.SIGTERM, lambda *_: say("user"))
        a = Member('a'); process.register(a)
        os.kill(os.getpid(), 15); say("on"); os._exit(0)
    """)
    assert (said, status) == (["a exit", "user", "on"], 0)


def test_a_handler_installed_later_replaces_ours_and_may_chain_to_it() -> None:
    said, status, _ = run("""
        a = Member('a'); process.register(a)
        before = signal.getsignal(signal.SIGTERM)
        def handler(signum, frame): say("user"); before(signum, frame)
        signal.signal(signal.SIGTERM, handler)
        os.kill(os.getpid(), 15); time.sleep(30)
    """)
    assert (said, status) == (["user", "a exit"], -signal.SIGTERM)


def test_an_ignored_signal_stays_ignored() -> None:
    said, status, _ = run("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        a = Member('a'); process.register(a)
        os.kill(os.getpid(), 15); say("on"); os._exit(0)
    """)
    assert (said, status) == (["on"], 0)


def test_sigint_is_keyboard_interrupt_unless_it_would_end_the_process_at_once() -> None:
    said, _, complaints = run("a = Member('a'); process.register(a); os.kill(os.getpid(), 2); time.sleep(30)")
    assert said == ["a exit"]
    assert "KeyboardInterrupt" in complaints
    said, status, _ = run("""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        a = Member('a'); process.register(a); os.kill(os.getpid(), 2); time.sleep(30)
    """)
    assert (said, status) == (["a exit"], -signal.SIGINT)


def test_our_handler_goes_with_the_last_member() -> None:
    said, _, _ = run("""
        a, b = Member('a'), Member('b')
        say(str(signal.getsignal(signal.SIGTERM)))
        process.register(a); process.register(b); process.forget(a)
        say(str(signal.getsignal(signal.SIGTERM) is process._on_signal))
        process.forget(b)
        say(str(signal.getsignal(signal.SIGTERM)))
    """)
    assert said == ["0", "True", "0"]


def test_registering_in_a_thread_is_harmless_and_the_main_thread_completes_it() -> None:
    said, status, _ = run("""
        a, b = Member('a'), Member('b')
        thread = threading.Thread(target=process.register, args=(a,)); thread.start(); thread.join()
        say(str(signal.getsignal(signal.SIGTERM)))
        process.register(b)
        os.kill(os.getpid(), 15); time.sleep(30)
    """)
    assert (said, status) == (["0", "b exit", "a exit"], -signal.SIGTERM)


def test_a_signal_waits_until_a_busy_member_is_done() -> None:
    said, status, _ = run("""
        class Writer(Member):
            writing = True
            def busy(self): return self.writing
        a = Writer('a'); process.register(a)
        os.kill(os.getpid(), 15)
        say("written"); a.writing = False
        process.release_deferred()
        time.sleep(30)
    """)
    assert (said, status) == (["written", "a exit"], -signal.SIGTERM)


def test_a_signal_does_not_cut_a_whole_function() -> None:
    said, status, _ = run("""
        a = Member('a'); process.register(a)
        def inner():
            os.kill(os.getpid(), 15)
            for _ in range(20): time.sleep(0.001)
            say("inner done")
        @process.whole
        def outer(): inner(); say("outer done")
        outer()
        time.sleep(30)
    """)
    assert (said, status) == (["inner done", "outer done", "a exit"], -signal.SIGTERM)


def test_sigterm_while_writing_under_the_gate_loses_nothing_and_does_not_hang(
    tmp_path: os.PathLike[str],
) -> None:
    path = os.path.join(tmp_path, "x.hold")
    for seconds in (0.001, 0.003, 0.01, 0.02, 0.03):
        said, status, complaints = run(f"""
            from holdfast.engine.connection import Database
            database = Database.open({path!r}, wait_seconds=5)
            class Writer(Member):
                def at_exit(self):
                    database.gate.acquire("exit"); database.run("INSERT OR REPLACE INTO meta VALUES ('exit', 1)")
                    database.gate.release("exit"); say("saved")
                def busy(self): return database.gate.held_by(1)
            a = Writer('a'); process.register(a)
            threading.Timer({seconds}, os.kill, (os.getpid(), 15)).start()
            while True:
                database.gate.acquire(1)
                database.begin(); database.run("INSERT OR REPLACE INTO meta VALUES ('loop', 1)"); database.commit()
                database.gate.release(1)
                process.release_deferred()
        """)
        assert (said, status) == (["saved"], -signal.SIGTERM), complaints


def test_members_are_held_weakly() -> None:
    flag = Flag(0)
    process.register(flag)
    key = id(flag)
    assert key in process._members
    del flag
    gc.collect()
    assert key not in process._members
    assert threading.current_thread() is threading.main_thread()
