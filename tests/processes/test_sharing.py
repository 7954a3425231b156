"""One hold, many processes, however they came to be: each change is seen at once, and none is lost."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

import holdfast

METHODS = ["fork", "spawn", "forkserver"]
PROCESSES = 8


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> BaseContext:
    return multiprocessing.get_context(request.param)


def run_all(context: Any, target: Callable[..., None], *arguments: tuple[Any, ...]) -> None:
    processes = [context.Process(target=target, args=some) for some in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def add_one(path: str, times: int, how: str) -> None:
    with holdfast.open(path, shared=True) as hold:
        d = hold.dict("d")
        for _ in range(times):
            if how == "set":
                d.set["n"] += 1
            elif how == "deep":
                d.set["deep"]["list"][0] += 1
            elif how == "lock":
                with d.locked():
                    d["n"] += 1
            elif how == "transaction":
                with hold.transaction():
                    d["n"] += 1
            else:
                d.set["fields"]["n"] += 1


@pytest.mark.parametrize("how", ["set", "deep", "lock", "transaction"])
def test_no_increment_of_eight_processes_is_lost(tmp_path: Path, how: str) -> None:
    path = str(tmp_path / "n.hold")
    times = 1000 if how == "set" else 200
    with holdfast.open(path, shared=True) as hold:
        hold.dict("d").update({"n": 0, "deep": {"list": [0]}})
    run_all(multiprocessing.get_context("fork"), add_one, *[(path, times, how)] * PROCESSES)
    with holdfast.open(path, shared=True) as hold:
        d = hold.dict("d")
        assert (d["deep"]["list"][0] if how == "deep" else d["n"]) == PROCESSES * times
        assert hold.check() == []


@pytest.mark.soak
def test_no_increment_of_eight_processes_is_lost_in_ten_thousand_each(tmp_path: Path) -> None:
    path = str(tmp_path / "n.hold")
    with holdfast.open(path, shared=True) as hold:
        hold.dict("d")["n"] = 0
    processes = [multiprocessing.Process(target=add_one, args=(path, 10_000, "set")) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    with holdfast.open(path, shared=True) as hold:
        assert hold.dict("d")["n"] == PROCESSES * 10_000


def use_what_was_sent(hold: holdfast.Hold, d: Any, name: str) -> None:
    assert hold.shared and hold.dict("d") is d
    d.set["seen"].append(name)
    hold.tracker("t").add(name)
    hold.close()


def test_a_hold_and_its_dicts_travel_as_arguments(tmp_path: Path, context: BaseContext) -> None:
    with holdfast.open(tmp_path / "a.hold", shared=True) as hold:
        d = hold.dict("d")
        d["seen"] = []
        hold.tracker("t")
        run_all(context, use_what_was_sent, *[(hold, d, str(i)) for i in range(3)])
        assert sorted(d["seen"]) == ["0", "1", "2"]
        assert sorted(hold.tracker("t")) == ["0", "1", "2"]
        d["after"] = 1
        assert d["after"] == 1 and hold.check() == []


def work_in_pool(job: tuple[Any, int]) -> Any:
    d, i = job
    d.set["sum"] += i
    d[f"job {i}"] = {"square": i * i}
    return d["sum"] > 0, d[f"job {i}"]


def test_a_pool_works_on_a_dict(tmp_path: Path, context: Any) -> None:
    with holdfast.open(tmp_path / "p.hold", shared=True) as hold:
        d = hold.dict("d")
        d["sum"] = 0
        with context.Pool(3) as pool:
            results = pool.map(work_in_pool, [(d, i) for i in range(1, 21)])
        assert all(result[0] for result in results)
        assert results[3] == (True, {"square": 16}), "what is sent back is plain"
        assert type(results[3][1]) is dict
        assert d["sum"] == 210 and len(d) == 21


def answer(questions: Any, pipe: Any) -> None:
    d = questions.get(timeout=30)
    value = questions.get(timeout=30)
    d["answer"] = value
    pipe.send((d, d["answer"]))
    pipe.recv()


def test_queue_and_pipe_carry_dicts_and_values(tmp_path: Path, context: Any) -> None:
    with holdfast.open(tmp_path / "q.hold", shared=True) as hold:
        d = hold.dict("d")
        d["question"] = {"deep": [1, {"x": 2}]}
        questions, (mine, theirs) = context.Queue(), context.Pipe()
        process = context.Process(target=answer, args=(questions, theirs))
        process.start()
        questions.put(d)
        questions.put(d["question"])
        back, value = mine.recv()
        assert back is d, "the dict itself, not another one"
        assert value == {"deep": [1, {"x": 2}]} and type(value) is dict and type(value["deep"]) is list
        assert d["answer"] == d["question"]
        mine.send("done")
        process.join(30)
        assert process.exitcode == 0
        questions.close()


PROGRAM = """
import sys, holdfast
hold = holdfast.open(sys.argv[1], shared=True)
d = hold.dict("d")
for line in sys.stdin:
    key, _, value = line.strip().partition("=")
    if value:
        d[key] = int(value)
    else:
        with hold.transaction():
            d[key] = d.get(key, 0) + 1
    print(d[key], flush=True)
"""


def test_unrelated_programs_see_each_other_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "u.hold")
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]

    def ask(i: int, line: str) -> int:
        program = programs[i]
        assert program.stdin is not None and program.stdout is not None
        program.stdin.write(line + "\n")
        program.stdin.flush()
        return int(program.stdout.readline())

    with holdfast.open(path, shared=True) as hold:
        d = hold.dict("d")
        for i in range(50):
            assert ask(i % 2, "n") == i + 1
            assert d["n"] == i + 1 and "n" in d and len(d) == 1
        assert ask(0, "m=7") == 7
        assert list(d.items()) == [("n", 50), ("m", 7)]
        d["n"] = 1
        assert ask(1, "n") == 2
        for program in programs:
            assert program.stdin is not None
            program.stdin.close()
            assert program.wait(30) == 0
        assert d["n"] == 2 and hold.check() == []


def test_an_exception_inside_set_writes_nothing_and_lets_others_in(tmp_path: Path) -> None:
    with holdfast.open(tmp_path / "e.hold", shared=True) as hold:
        d = hold.dict("d")
        d.update({"n": 1, "log": [3, 1, 2], "deep": {"a": {"b": 1}}})
        before, at = d.copy(), hold._journal.seen
        for wrong in (
            lambda: d.set["log"].sort(key=lambda one: 1 // (one - 1)),
            lambda: d.set["log"].append({1, 2}),
            lambda: d.set["deep"]["a"].update({"c": 1, "d": object()}),
            lambda: d.set["deep"]["nowhere"].update({}),
            lambda: d.set["deep"].pop("nowhere"),
            lambda: d.set["n"].no_such_method(),
            lambda: d.set["log"].__class__.mro().no,
        ):
            with pytest.raises(Exception):  # noqa: B017
                wrong()
            assert d == before and hold._journal.seen == at
        with pytest.raises(TypeError):
            d.set["n"] += "x"
        with pytest.raises(KeyError):
            d.set["no"] += 1
        with pytest.raises(ZeroDivisionError):
            d.set["n"] //= 0
        assert d == before and hold._journal.seen == at
        run_all(multiprocessing.get_context("spawn"), add_one, (hold.path, 5, "set"))
        assert d["n"] == 6


def test_paths_change_in_place(tmp_path: Path) -> None:
    with holdfast.open(tmp_path / "p.hold", shared=True) as hold:
        d = hold.dict("d")
        d.update({"a": {"n": 2, "list": [1, 2, 3]}, "s": "x", "n": 7})
        d.set["a"]["n"] **= 5
        d.set["a"]["list"][:] = [4]
        d.set["a"]["list"] += [5]
        d.set["s"] *= 3
        d.set["n"] //= 2
        d.set["n"] |= 8
        d.set["new"] = [1]
        d.set["a"]["more"] = {"x": None}
        del d.set["a"]["more"]["x"]
        assert d.set["a"]["list"].pop() == 5
        assert d.set["new"].insert(0, 0) is None
        assert d == {"a": {"n": 32, "list": [4], "more": {}}, "s": "xxx", "n": 11, "new": [0, 1]}
        with pytest.raises(TypeError, match=r"leave `.set` out: d\['a'\]\['n'\]"):
            bool(d.set["a"]["n"])


def hold_the_lock(path: str, ready: Any, go: Any) -> None:
    with holdfast.open(path, shared=True) as hold, hold.dict("d").locked() as d:
        d["n"] = 1
        ready.set()
        go.wait(30)
        d["n"] = 2


def test_a_lock_keeps_writers_out_and_readers_in(tmp_path: Path, context: Any) -> None:
    with holdfast.open(tmp_path / "l.hold", shared=True, wait_seconds=0.2) as hold:
        d = hold.dict("d")
        ready, go = context.Event(), context.Event()
        process = context.Process(target=hold_the_lock, args=(hold.path, ready, go))
        process.start()
        assert ready.wait(30)
        assert d["n"] == 1
        with pytest.raises(holdfast.BusyError, match=rf"process {process.pid}"):
            d["n"] = 5
        with pytest.raises(holdfast.BusyError):
            hold.lock(wait_seconds=0.05)
        with pytest.raises(TimeoutError), hold.transaction(wait_seconds=0.05):
            pass
        go.set()
        hold.lock(wait_seconds=30)
        assert d["n"] == 2
        hold.unlock()
        process.join(30)
        with pytest.raises(holdfast.InvalidError, match="not locked"):
            hold.unlock()


def test_everything_works_while_one_holds_the_lock_oneself(tmp_path: Path) -> None:
    for shared in (False, True):
        with holdfast.open(tmp_path / f"{shared}.hold", shared=shared, wait_seconds=0.5) as hold:
            d, t = hold.dict("d"), hold.tracker("t")
            with hold.locked(), d.locked():
                d.update({"n": 1, "log": []})
                d.set["n"] += 1
                d["log"].append(1)
                with hold.transaction():
                    d["n"] += 1
                t.add("x")
                assert t.claim("me")[0].key == "x"
                assert d.pop("log") == [1]
                hold.dict("made inside")["k"] = d.setdefault("s", 1)
                hold.sync()
                hold.fold()
            assert d.copy() == {"n": 3, "s": 1}


def die_inside(path: str, how: str, ready: Any) -> None:
    hold = holdfast.open(path, shared=True)
    d = hold.dict("d")
    if how == "lock":
        hold.lock()
    else:
        hold.transaction().__enter__()
        d["n"] = 99
        d["other"] = 99
    ready.set()
    time.sleep(60)


@pytest.mark.parametrize("how", ["lock", "transaction"])
def test_who_is_killed_with_the_lock_lets_others_in(tmp_path: Path, how: str) -> None:
    context = multiprocessing.get_context("spawn")
    with holdfast.open(tmp_path / "k.hold", shared=True) as hold:
        d = hold.dict("d")
        d["n"] = 1
        ready = context.Event()
        process = context.Process(target=die_inside, args=(hold.path, how, ready))
        process.start()
        assert ready.wait(30)
        assert d["n"] == 1 and "other" not in d
        process.kill()
        process.join()
        d.set["n"] += 1
        assert d.copy() == {"n": 2} and hold.check() == []


def write_rounds(path: str, writer: int, seconds: float, acked: Any, stop: Any) -> None:
    """Counts up, and says in `acked` what was acknowledged, after it was."""
    with holdfast.open(path, shared=True) as hold:
        d = hold.dict("d")
        number = 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stop.is_set():
            number += 1
            if number % 7:
                d[f"w{writer}"] = number
            else:
                d[f"w{writer}"] = number
                d.set["both"].update({f"w{writer}": number})
            acked[writer] = number
            if number % 500 == 0:
                hold.fold()


def read_rounds(path: str, checks: int, writers: int, acked: Any, found: Any, slot: int) -> None:
    """Reads what is cached, and compares it with what had been acknowledged before it looked."""
    with holdfast.open(path, shared=True) as hold:
        d = hold.dict("d")
        stale = hits = 0
        for i in range(checks):
            writer = i % writers
            before = acked[writer]
            at = hold._journal.seen
            value = d[f"w{writer}"]
            hits += hold._journal.seen == at
            stale += value < before
        found[slot], found[slot + 1] = stale, hits


def look_for_stale_reads(path: str, checks: int, seconds: float) -> tuple[int, int]:
    context = multiprocessing.get_context("fork")
    acked, found = context.RawArray("q", 2), context.RawArray("q", 4)
    with holdfast.open(path, shared=True) as hold:
        hold.dict("d").update({"w0": 0, "w1": 0, "both": {}})
    stop = context.Event()
    writers = [context.Process(target=write_rounds, args=(path, i, seconds, acked, stop)) for i in range(2)]
    readers = [context.Process(target=read_rounds, args=(path, checks, 2, acked, found, 2 * i)) for i in range(2)]
    for process in (*writers, *readers):
        process.start()
    for process in readers:
        process.join()
    stop.set()
    for process in writers:
        process.join(30)
    assert [process.exitcode for process in (*writers, *readers)] == [0] * 4
    assert min(acked) > 100
    return found[0] + found[2], found[1] + found[3]


def test_no_cached_read_is_stale_beside_writers(tmp_path: Path) -> None:
    stale, hits = look_for_stale_reads(str(tmp_path / "s.hold"), 30_000, 60)
    assert stale == 0
    assert hits > 1000, "the cache was hardly used, so this shows nothing"


@pytest.mark.soak
def test_no_cached_read_of_two_million_is_stale(tmp_path: Path) -> None:
    stale, hits = look_for_stale_reads(str(tmp_path / "s.hold"), 1_500_000, 3000)
    print(f"{hits} cached reads")
    assert stale == 0 and hits > 2_000_000


def read_with_threads(path: str, acked: Any, bad: Any) -> None:
    from tests.processes.test_threads import together

    sys.setswitchinterval(1e-5)
    with holdfast.open(path, shared=True) as hold:
        d = hold.dict("d")

        def work() -> None:
            for i in range(1500):
                before = acked[i % 2]
                if d[f"w{i % 2}"] < before or d.get(f"w{i % 2}") < before:
                    bad[0] += 1

        together(*[work] * 4)


def test_no_cached_read_of_many_threads_is_stale(tmp_path: Path) -> None:
    """While one thread takes in what another process wrote, the others must not take what it has not reached."""
    context = multiprocessing.get_context("fork")
    path = str(tmp_path / "s.hold")
    acked, bad, stop = context.RawArray("q", 2), context.RawArray("q", 1), context.Event()
    with holdfast.open(path, shared=True) as hold:
        hold.dict("d").update({"w0": 0, "w1": 0, "both": {}})
    writers = [context.Process(target=write_rounds, args=(path, i, 60, acked, stop)) for i in range(2)]
    for process in writers:
        process.start()
    run_all(context, read_with_threads, (path, acked, bad))
    stop.set()
    for process in writers:
        process.join(30)
    assert bad[0] == 0


def change_all_sorts(path: str, seed: int) -> None:
    import random

    chance = random.Random(seed)
    with holdfast.open(path, shared=True) as hold:
        d, t = hold.dict("d"), hold.tracker("t")
        for i in range(150):
            key = f"k{chance.randrange(10)}"
            what = chance.randrange(7)
            if what == 0:
                d.pop(key, None)
            elif what == 1:
                d[key] = {"by": seed, "n": i}
            elif what == 2:
                d.setdefault(key, []).__class__
            elif what == 3 and key in d:
                d.move_to_end(key) if chance.random() < 0.5 else d.mark_dirty(key)
            elif what == 4:
                with hold.transaction():
                    d[key] = [seed, i]
                    d["last"] = seed
            elif what == 5:
                t.add_if_absent(key)
                t.increment_tries(key)
            else:
                hold.fold()
            sum(1 for _ in d.items())
            len(d)


def test_processes_that_change_all_sorts_agree_in_the_end(tmp_path: Path) -> None:
    """Each process keeps its own picture of one file; after everything these pictures are the same, in order too."""
    path = str(tmp_path / "a.hold")
    with holdfast.open(path, shared=True) as hold:
        d, t = hold.dict("d"), hold.tracker("t")
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=_tolerate_missing, args=(path, seed)) for seed in range(4)]
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            pairs = list(d.items())
            assert len({key for key, _ in pairs}) == len(pairs)
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
        mine = [(key, d[key]) for key in d]
        assert len(mine) == len(d)
        assert hold.check() == []
        program = "import sys, json, holdfast; d = holdfast.open(sys.argv[1], shared=True).dict('d'); "
        program += "print(json.dumps(list(d.items())))"
        theirs = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        assert eval(theirs.stdout.replace("null", "None")) == [[key, value] for key, value in mine]
        hold.fold()
        assert [(key, d[key]) for key in d] == mine
        assert t.num_tried() == len(t)


def _tolerate_missing(path: str, seed: int) -> None:
    for attempt in range(20):
        try:
            change_all_sorts(path, seed * 100 + attempt)
            return
        except (holdfast.MissingError, holdfast.ConflictError):
            continue


def test_no_descriptor_is_left_after_close(tmp_path: Path) -> None:
    def descriptors() -> list[str]:
        return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))

    before = descriptors()
    for shared in (False, True, False):
        hold = holdfast.open(tmp_path / f"{shared}.hold", shared=shared)
        hold.dict("d")["x"] = 1
        hold.tracker("t").add("a")
        for _ in hold.dict("d").items():
            break
        hold.backup(tmp_path / f"backup-{len(os.listdir(tmp_path))}.hold")
        hold.on_change(print).cancel()
        hold.close()
        assert not [name for name in os.listdir(tmp_path) if name.endswith(("-wal", "-shm"))]
    assert descriptors() == before
    import threading

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("holdfast")]


def _is_open(fd: str) -> bool:
    try:
        os.stat(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return False
    return True
