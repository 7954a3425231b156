"""Many threads on one hold: no update is lost, and no batch is seen in half.

The interpreter switches threads as often as it can here, so that what may come apart does.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import holdfast

THREADS = 8


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=[False, True], ids=["unshared", "shared"])
def hold(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[holdfast.Hold]:
    with holdfast.open(tmp_path / "t.hold", shared=request.param, sync_changes=50, wait_seconds=20) as opened:
        yield opened
        assert opened.check() == []


def together(*works: Callable[[], Any]) -> None:
    """Run all at once; the first error of any is raised here."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> None:
        try:
            start.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


def stored(hold: holdfast.Hold, name: str) -> dict[Any, Any]:
    """What a later program finds."""
    path, shared = hold.path, hold.shared
    hold.sync()
    hold.backup(path + ".copy")
    with holdfast.open(path + ".copy", shared=shared) as copy:
        return copy.dict(name).copy()


def test_no_key_is_lost_while_everybody_syncs(hold: holdfast.Hold) -> None:
    d = hold.dict("d")

    def write(name: int) -> Callable[[], None]:
        def work() -> None:
            for i in range(150):
                d[f"{name}-{i}"] = {"n": i, "by": [name]}
                d[f"{name}-{i}"]["n"] += 1
                d[f"count-{name}"] = i
                if i % 40 == 0:
                    d.sync()
                if i % 3 == 0:
                    del d[f"{name}-{i}"]

        return work

    together(*map(write, range(THREADS)))
    expected = {f"count-{t}": 149 for t in range(THREADS)} | {
        f"{t}-{i}": {"n": i + 1, "by": [t]} for t in range(THREADS) for i in range(150) if i % 3
    }
    assert d == expected
    assert len(d) == len(expected)
    assert stored(hold, "d") == expected


def test_no_increment_through_set_is_lost(hold: holdfast.Hold) -> None:
    d = hold.dict("d")
    d["n"] = 0
    d["deep"] = {"list": [0, {"n": 0}], "log": []}

    def work() -> None:
        for i in range(100):
            d.set["n"] += 1
            d.set["deep"]["list"][1]["n"] += 1
            d.set["deep"]["log"].append(i)

    together(*[work] * THREADS)
    assert d["n"] == d["deep"]["list"][1]["n"] == len(d["deep"]["log"]) == THREADS * 100
    assert stored(hold, "d") == d.copy()


def test_increments_through_held_references_to_one_value(hold: holdfast.Hold) -> None:
    """Each of these is one change of a list: none may be lost, in memory or in the file."""
    d = hold.dict("d")
    d["log"] = {"all": []}

    def write(name: int) -> Callable[[], None]:
        def work() -> None:
            log = d["log"]["all"]
            for i in range(60):
                log.append(name * 1000 + i)
                if i % 20 == 0:
                    d.sync()

        return work

    together(*map(write, range(THREADS)))
    assert sorted(d["log"]["all"]) == sorted(t * 1000 + i for t in range(THREADS) for i in range(60))
    assert stored(hold, "d") == d.copy()


def test_transactions_of_many_threads_are_whole(hold: holdfast.Hold) -> None:
    """Each transaction moves a piece between two dicts. Who looks inside one sees the sum unchanged."""
    a, b = hold.dict("a"), hold.dict("b")
    a["n"], b["n"] = 10_000, {"left": 0}
    sums: list[int] = []

    def move(step: int) -> Callable[[], None]:
        def work() -> None:
            for i in range(40):
                try:
                    with hold.transaction():
                        a["n"] -= step
                        b["n"]["left"] += step
                        if i % 5 == 0:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    pass

        return work

    def look() -> None:
        for _ in range(80):
            with hold.transaction():
                sums.append(a["n"] + b["n"]["left"])

    together(*(move(step) for step in range(1, 7)), look, look)
    assert set(sums) == {10_000}
    assert b["n"]["left"] == 32 * (1 + 2 + 3 + 4 + 5 + 6)
    assert (
        stored(hold, "b")["n"] == {"left": 32 * 21} and stored_once_more(hold, "a")["n"] == 10_000 - 32 * 21
    )


def stored_once_more(hold: holdfast.Hold, name: str) -> dict[Any, Any]:
    Path(hold.path + ".copy").unlink()
    return stored(hold, name)


def test_who_is_outside_never_sees_what_is_not_committed(hold: holdfast.Hold) -> None:
    """A transaction writes odd numbers and leaves even ones; so odd, or a key that it deletes again, is never seen."""
    d = hold.dict("d")
    d.update({"n": 0, "whole": {"n": 0}, "kept": 1})
    done = threading.Event()
    seen: list[str] = []

    def write() -> None:
        try:
            for i in range(150):
                try:
                    with hold.transaction():
                        d["n"] += 1
                        d["whole"] = {"n": d["whole"]["n"] + 1}
                        d["only inside"] = [i]
                        del d["kept"]
                        if i % 3 == 0:
                            raise ZeroDivisionError
                        d["n"] += 1
                        d["whole"] = {"n": d["whole"]["n"] + 1}
                        d["kept"] = 1
                        del d["only inside"]
                except ZeroDivisionError:
                    pass
        finally:
            done.set()

    def read(look: Callable[[], Any]) -> Callable[[], None]:
        def work() -> None:
            while not done.is_set():
                found = look()
                if found:
                    seen.append(str(found))

        return work

    together(
        write,
        read(lambda: d["n"] % 2 and f"n={d['n']}"),
        read(lambda: d["whole"]["n"] % 2 and "whole"),
        read(lambda: "only inside" in d and "contains"),
        read(lambda: d.get("kept") != 1 and "kept is gone"),
        read(lambda: "kept" not in d and "kept is not contained"),
        read(lambda: len(d) != 3 and f"len {len(d)}"),
        read(lambda: sorted(d) != ["kept", "n", "whole"] and f"keys {list(d)}"),
        read(
            lambda: (
                [k for k, v in d.items() if (v if k == "n" else v["n"] if k == "whole" else 0) % 2]
                and "items"
            )
        ),
    )
    assert seen == []


def test_readers_beside_writers_find_every_key(hold: holdfast.Hold) -> None:
    """Eviction, folding and loading at once: a key that is there is found, with a value that it had."""
    d = hold.dict("d")
    d.update({i: {"v": 0, "k": i} for i in range(50)})
    done = threading.Event()

    def write() -> None:
        try:
            for round_ in range(1, 12):
                for i in range(50):
                    d[i]["v"] = round_
                hold.fold()
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            for i in range(50):
                value = d[i]
                assert value["k"] == i and 0 <= value["v"] < 12

    def go_over() -> None:
        while not done.is_set():
            found = [(key, value["k"]) for key, value in d.items()]
            assert found == [(i, i) for i in range(50)]

    together(write, read, read, go_over, go_over)
    assert stored(hold, "d") == {i: {"v": 11, "k": i} for i in range(50)}


def test_many_at_once_beside_syncs(hold: holdfast.Hold) -> None:
    """`update`, `clear` and the like hold the structure while they work; syncs beside them must not wait for ever."""
    d = hold.dict("d")

    def write(name: int) -> Callable[[], None]:
        def work() -> None:
            for i in range(8):
                d.update({(name, j): i for j in range(40)})
                for j in range(0, 40, 2):
                    assert d.pop((name, j)) == i
                d.setdefault((name, "x"), []).append(i)
                hold.sync()

        return work

    together(*map(write, range(THREADS)))
    assert len(d) == THREADS * 21
    assert stored(hold, "d") == d.copy()


def test_each_task_of_a_tracker_is_claimed_once(hold: holdfast.Hold) -> None:
    tasks = hold.tracker("t")
    tasks.add_many(range(60))
    finished: list[int] = []

    def work() -> None:
        me = str(threading.get_ident())
        while claimed := tasks.claim(me, most=3):
            for task in claimed:
                tasks.finish(task, by=me)
                finished.append(task.key)

    together(*[work] * THREADS)
    assert sorted(finished) == list(range(60))
    assert tasks.num_done() == 60 and all(tasks.tries(key) == 1 for key in range(60))


def test_each_try_is_counted(hold: holdfast.Hold) -> None:
    tasks = hold.tracker("t")
    tasks.add("a")

    def work() -> None:
        for _ in range(40):
            tasks.increment_tries("a")

    together(*[work] * THREADS)
    assert tasks.tries("a") == THREADS * 40


def test_close_beside_writers(tmp_path: Path) -> None:
    """Whoever comes too late is told so, and what was acknowledged by a sync is in the file."""
    hold = holdfast.open(tmp_path / "c.hold", sync_changes=20)
    d = hold.dict("d")
    synced: dict[int, int] = {}

    def write(name: int) -> Callable[[], None]:
        def work() -> None:
            try:
                for i in range(100_000):
                    d[name] = i
                    hold.sync()
                    synced[name] = i
            except holdfast.ClosedError:
                pass

        return work

    def close() -> None:
        while len(synced) < 3:
            pass
        hold.close()

    together(write(0), write(1), write(2), close)
    with holdfast.open(tmp_path / "c.hold") as again:
        assert all(again.dict("d")[name] >= i for name, i in synced.items())
        assert again.check() == []
