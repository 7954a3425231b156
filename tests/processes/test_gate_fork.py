"""The rule of forks, and freshness: what other processes see of the file, whoever is killed."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.engine.connection import Database
from holdfast.errors import ClosedError

INSERT = "INSERT INTO meta VALUES (?, ?)"


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


def write(database: Database, key: str, value: int = 1) -> None:
    database.gate.acquire(1)
    try:
        database.begin()
        database.run(INSERT, (key, value))
        database.commit()
    finally:
        database.gate.release(1)


def test_a_child_goes_on_with_a_connection_of_its_own_and_nothing_is_lost(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    database = Database.open(path)
    write(database, "before")
    read, opened = os.pipe()
    closed, write_closed = os.pipe()

    def child() -> None:
        assert database.value("SELECT count(*) FROM meta") == 1
        os.write(opened, b"x")
        os.read(closed, 1)
        write(database, "child")  # after the parent, the last one as it thinks, has closed

    pid = in_child(child)
    os.read(read, 1)
    database.close(last=True)
    os.write(write_closed, b"x")
    assert end(pid) == [0]
    again = Database.open(path)
    assert again.rows("SELECT key FROM meta ORDER BY key") == [("before",), ("child",)]
    assert again.integrity() == []


def test_parent_and_children_write_side_by_side(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))

    def child(name: int) -> None:
        for number in range(50):
            write(database, f"{name}-{number}")
        grandchild = in_child(lambda: write(database, f"grandchild of {name}"))
        assert end(grandchild) == [0]

    pids = []
    for name in range(4):
        write(database, f"parent-{name}")
        pids.append(in_child(lambda name=name: child(name)))
    write(database, "parent")
    assert end(*pids) == [0] * 4
    assert database.value("SELECT count(*) FROM meta") == 4 * 52 + 1
    assert database.integrity() == []


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="needs Linux")
def test_a_child_holds_sqlite_s_locks_itself(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))
    inode = f":{os.stat(database.path).st_ino} "

    def child() -> None:
        database.value("SELECT 1 FROM meta")
        held = [line for line in Path("/proc/locks").read_text().splitlines() if f" {os.getpid()} " in line]
        assert any("POSIX" in line and inode in line for line in held), held

    assert end(in_child(child)) == [0]


def test_a_fork_waits_for_another_thread_s_transaction(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))
    begun, forking = threading.Event(), threading.Event()

    def transact() -> None:
        database.gate.acquire("thread")
        database.begin()
        database.run(INSERT, ("a", 1))
        begun.set()
        forking.wait()
        time.sleep(0.05)
        database.run(INSERT, ("b", 2))
        database.commit()
        database.gate.release("thread")

    thread = threading.Thread(target=transact)
    thread.start()
    begun.wait()
    forking.set()

    def child() -> None:
        assert database.value("SELECT count(*) FROM meta") == 2
        write(database, "c")

    pid = in_child(child)
    thread.join()
    assert end(pid) == [0]
    assert database.value("SELECT count(*) FROM meta") == 3


def test_a_child_forked_by_the_thread_that_transacts_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    database = Database.open(path)
    database.gate.acquire(1)
    database.begin()
    database.run(INSERT, ("a", 1))

    def child() -> None:
        for use in (lambda: database.value("SELECT 1"), lambda: Database.open(path)):
            with pytest.raises(ClosedError, match="forked in the middle of a transaction"):
                use()
        database.gate.release(1)

    assert end(in_child(child)) == [0]
    database.run(INSERT, ("b", 2))
    database.commit()
    database.gate.release(1)
    assert database.rows("SELECT key FROM meta") == [("a",), ("b",)]
    assert database.integrity() == []


def test_forks_beside_busy_threads_neither_hang_nor_tear(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(name: int) -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                owner = threading.get_ident()
                database.gate.acquire(owner)
                database.begin()
                database.run(INSERT, (f"{name}-{number}", number))
                database.commit()
                database.gate.release(owner)
                assert database.value("SELECT value FROM meta WHERE key=?", (f"{name}-{number}",)) == number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    statuses = []
    for number in range(20):
        statuses += end(in_child(lambda number=number: write(database, f"child {number}")))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert statuses == [0] * 20
    assert database.value("SELECT count(*) FROM meta WHERE key LIKE 'child %'") == 20
    assert database.integrity() == []


def test_a_hold_in_memory_is_a_copy_in_the_child() -> None:
    database = Database.open(":memory:")
    write(database, "both")

    def child() -> None:
        write(database, "child")
        database.counter.words[0] = 9
        assert database.value("SELECT count(*) FROM meta") == 2

    assert end(in_child(child)) == [0]
    assert database.rows("SELECT key FROM meta") == [("both",)]
    assert database.counter.words[0] == 0


def test_alone_is_who_opens_first(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    first = Database.open(path)
    assert first.alone
    second = Database.open(path)
    assert not second.alone
    first.close()
    assert second.gate.presence()
    second.close(last=True)
    assert Database.open(path).alone


# -- freshness ----------------------------------------------------------------------------------------------

ACKNOWLEDGED, HITS, MISSES, WRITES = 100, 110, 112, 114


def increment(database: Database, writer: int) -> None:
    words = database.counter.words
    database.gate.acquire(1)
    database.begin()
    seq = database.value("SELECT value FROM meta WHERE key='seq'") + 1
    database.run("UPDATE meta SET value=? WHERE key='seq'", (seq,))
    words[0] = seq  # before COMMIT
    database.commit()
    database.counter.landed(seq)
    words[ACKNOWLEDGED + writer] = seq
    words[WRITES] += 1
    database.gate.release(1)


def test_no_reader_is_ever_stale_though_writers_are_killed(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    database = Database.open(path)
    database.run(INSERT, ("seq", 0))
    words = database.counter.words
    until = time.monotonic() + 2.0
    chance = random.Random(5)

    def write_on(writer: int) -> None:
        own = Database.open(path)
        while time.monotonic() < until:
            increment(own, writer)

    def read_on(reader: int) -> None:
        own = Database.open(path)
        seen, value, hits, misses = -1, -1, 0, 0
        look = own.counter.words
        while time.monotonic() < until:
            acknowledged = max(look[ACKNOWLEDGED], look[ACKNOWLEDGED + 1])
            if look[0] != seen:
                seen = value = own.value("SELECT value FROM meta WHERE key='seq'")
                misses += 1
            else:
                hits += 1
            assert value >= acknowledged, f"read {value} after {acknowledged} was acknowledged"
        look[HITS + reader], look[MISSES + reader] = hits, misses

    readers = [in_child(lambda reader=reader: read_on(reader)) for reader in range(2)]
    writers = [in_child(lambda writer=writer: write_on(writer)) for writer in range(2)]
    kills = 0
    while time.monotonic() < until - 0.3:
        time.sleep(chance.uniform(0.02, 0.1))
        victim = chance.randrange(2)
        os.kill(writers[victim], signal.SIGKILL)
        kills += 1
        end(writers[victim])
        writers[victim] = in_child(lambda victim=victim: write_on(victim))
    assert end(*readers) == [0, 0]
    assert end(*writers) == [0, 0]
    hits, misses = sum(words[HITS : HITS + 2]), sum(words[MISSES : MISSES + 2])
    print(
        f"{words[WRITES]} writes, {kills} kills, {hits} reads from memory, {misses} from the file, none stale"
    )
    assert hits and misses
    assert database.integrity() == []


def test_who_follows_sees_each_number_land(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    database = Database.open(path)
    database.run(INSERT, ("seq", 0))

    def write_some() -> None:
        own = Database.open(path)
        for _ in range(200):
            increment(own, 0)

    pid = in_child(write_some)
    seen = 0
    while seen < 200:
        assert database.counter.wait(seen, 30)
        seen = database.counter.words[1]
        assert database.value("SELECT value FROM meta WHERE key='seq'") >= seen
    assert end(pid) == [0]
