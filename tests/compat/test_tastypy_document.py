"""Every snippet of the document of tastypy runs as it is meant; each test is named after the section it is in."""

import multiprocessing
import signal
from pathlib import Path

import pytest
from tests.compat.programs import finish, run, start

from holdfast.compat import tastypy
from holdfast.compat.tastypy import POD, SharedPOD, SharedTracker, Tracker

EXAMPLE = """
    import multiprocessing
    from multiprocessing import Process
    from holdfast.compat import tastypy

    def worker(pod, proc_num, num_procs):
        for i in pod:
            if i%num_procs == proc_num:
                pod[i] = i**2

    def run_multiproc():
        num_procs = 5
        init = [(i, None) for i in range(25)]
        pod = tastypy.SharedPOD('my.pod', init=init)
        procs = []
        for i in range(num_procs):
            proc = Process(target=worker, args=(pod, i, num_procs))
            proc.start()
            procs.append(proc)

        for proc in procs:
            proc.join()

        for key, val in pod.iteritems():
            print(key, val)

    if __name__ == '__main__':
        multiprocessing.set_start_method({method!r})
        run_multiproc()
"""

HELD = """
    import os, sys, signal, threading
    from holdfast.compat.tastypy import POD, SharedPOD
    pod = POD('my.pod')
    pod['foo'] = ['bar']
    pod['foo'].append('baz')
    assert pod.dirty() == {{'foo'}}
    {end}
"""
ENDS = {
    "program ends": ("", {}),
    "exit()": ("exit()", {}),
    "sys.exit(3)": ("sys.exit(3)", {"status": 3}),
    "uncaught exception": ("raise RuntimeError('as it happens')", {"status": 1}),
    "SIGTERM": (
        "os.kill(os.getpid(), signal.SIGTERM); threading.Event().wait(30)",
        {"signum": signal.SIGTERM},
    ),
    "SIGINT": ("os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(30)", {"signum": signal.SIGINT}),
}


# -- PersistentOrderedDict ------------------------------------------------------------------------------------


def test_persistent_ordered_dict_is_preserved_after_the_program_exits(tmp_path: Path) -> None:
    run(
        """
        from holdfast.compat.tastypy import POD
        my_pod = POD('path/to/my.pod')
        my_pod['foo'] = 'bar'
        exit()
        """,
        tmp_path,
    )
    shown = run(
        """
        from holdfast.compat.tastypy import POD
        my_pod = POD('path/to/my.pod')
        print(my_pod['foo'])
        """,
        tmp_path,
    )
    assert shown == "bar\n"


def test_persistent_ordered_dict_has_a_short_alias() -> None:
    assert POD is tastypy.PersistentOrderedDict
    assert SharedPOD is tastypy.SharedPersistentOrderedDict
    assert Tracker is tastypy.ProgressTracker
    assert SharedTracker is tastypy.SharedProgressTracker


def test_json_general_simple_secure_makes_nested_integer_keys_strings(tmp_path: Path) -> None:
    my_pod = POD(tmp_path / "my.pod")
    my_pod[1] = {1: 1}
    my_pod.sync()
    my_pod.revert()
    assert my_pod[1] == {"1": 1}


def test_json_general_simple_secure_stores_what_json_holds(tmp_path: Path) -> None:
    my_pod = POD(tmp_path / "my.pod")
    my_pod["x"] = {"text": "é\0", "numbers": (1, 2.5, 10**30), "nothing": None, "deep": [{"er": [True]}]}
    assert my_pod["x"] == {
        "text": "é\0",
        "numbers": [1, 2.5, 10**30],
        "nothing": None,
        "deep": [{"er": [True]}],
    }


def test_synchronization_of_what_is_mutated_by_another_reference(tmp_path: Path) -> None:
    """The document calls this bad, for the original could not see it."""
    my_pod = POD(tmp_path / "my.pod")
    my_pod["key"] = []
    my_pod.sync()
    my_list = my_pod["key"]
    my_list.append(42)
    assert my_pod.dirty() == {"key"}
    my_pod.sync()
    my_pod.revert()
    assert my_pod["key"] == [42]


def test_synchronization_of_what_is_mutated_by_keying_into_the_pod(tmp_path: Path) -> None:
    my_pod = POD(tmp_path / "my.pod")
    my_pod["key"] = []
    my_pod["key"].append(42)
    my_pod.sync()
    my_pod.revert()
    assert my_pod["key"] == [42]


def test_synchronization_when_enough_values_have_changed(tmp_path: Path) -> None:
    my_pod = POD(tmp_path / "my.pod")
    for i in range(999):
        my_pod[i] = i
    assert len(my_pod.dirty()) == 999
    my_pod[999] = 999
    assert my_pod.dirty() == set()


@pytest.mark.parametrize("end", ENDS)
def test_can_data_be_lost_not_when(end: str, tmp_path: Path) -> None:
    code, ended = ENDS[end]
    run(HELD.format(end=code), tmp_path, **ended)
    assert POD(tmp_path / "my.pod")["foo"] == ["bar", "baz"]


def test_can_data_be_lost_when_killed_what_was_not_synchronized(tmp_path: Path) -> None:
    run(
        HELD.format(end="pod.sync(); pod['late'] = 1; os.kill(os.getpid(), signal.SIGKILL)"),
        tmp_path,
        signum=signal.SIGKILL,
    )
    assert POD(tmp_path / "my.pod").items() == [("foo", ["bar", "baz"])]


def test_can_i_manually_control_synchronization(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", sync_at=3)
    pod["a"] = 1
    pod["b"] = 2
    assert pod.dirty() == {"a", "b"}
    pod.sync_key("a")
    assert "a" not in pod.dirty()
    pod.sync()
    assert pod.dirty() == set()
    pod.mark_dirty("b")
    assert pod.dirty() == {"b"}
    pod.hold()
    pod.update(c=3, d=4, e=5)
    assert pod.dirty() == {"b", "c", "d", "e"}
    pod.unhold()
    assert pod.dirty() == set()
    pod["a"] = 100
    pod["new"] = 6
    pod.revert()
    assert pod["a"] == 1 and "new" not in pod


def test_opening_multiple_pods_at_same_location_is_safe(tmp_path: Path) -> None:
    one, other = POD(tmp_path / "my.pod"), POD(tmp_path / "my.pod")
    one["a"] = {"from": "one"}
    other["a"]["from"] = "other"
    other["b"] = 2
    one.sync()
    other.sync()
    assert one == other == {"a": {"from": "other"}, "b": 2}
    assert one.dirty() == other.dirty() == set()


# -- SharedPOD ------------------------------------------------------------------------------------------------


def put_square(pod: SharedPOD, i: int) -> int:
    pod[i] = i**2
    return len(pod)


def receive_and_put(end) -> None:
    put_square(end.recv(), 3)


def get_and_put(queue) -> None:
    put_square(queue.get(), 3)


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def context(request: pytest.FixtureRequest):
    return multiprocessing.get_context(request.param)


def test_multiprocessing_with_shared_pods_as_argument_of_a_process(context, tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod")
    child = context.Process(target=put_square, args=(pod, 3))
    child.start()
    child.join()
    assert pod == {3: 9}


def test_multiprocessing_with_shared_pods_over_a_pipe(context, tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod")
    ours, theirs = context.Pipe()
    child = context.Process(target=receive_and_put, args=(theirs,))
    child.start()
    ours.send(pod)
    child.join()
    assert pod == {3: 9}


def test_multiprocessing_with_shared_pods_over_a_queue(context, tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod")
    queue = context.Queue()
    child = context.Process(target=get_and_put, args=(queue,))
    child.start()
    queue.put(pod)
    child.join()
    assert pod == {3: 9}


def test_multiprocessing_with_shared_pods_over_a_pool(context, tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod")
    with context.Pool(2) as pool:
        pool.starmap(put_square, [(pod, i) for i in range(8)])
    assert sorted(pod.items()) == [(i, i**2) for i in range(8)]


def test_writing_to_shared_pods_on_the_pod_itself(tmp_path: Path) -> None:
    """The document asks for `.set` here, since the original lost nested changes without it."""
    shared_pod = tastypy.SharedPOD(tmp_path / "my.pod")
    shared_pod["foo"] = {"bar": 0, "baz": []}
    shared_pod["foo"]["bar"] += 1
    shared_pod["foo"]["baz"].append("fizz")
    assert shared_pod["foo"] == {"bar": 1, "baz": ["fizz"]}


def test_writing_to_shared_pods_on_the_set_attribute(tmp_path: Path) -> None:
    shared_pod = tastypy.SharedPOD(tmp_path / "my.pod")
    shared_pod.set["foo"] = {"bar": 4, "baz": []}
    shared_pod.set["foo"]["bar"] += 1
    shared_pod.set["foo"]["baz"].append("fizz")
    assert shared_pod["foo"] == {"bar": 5, "baz": ["fizz"]}


def test_writing_to_shared_pods_by_slice_assignment(tmp_path: Path) -> None:
    shared_pod = tastypy.SharedPOD(tmp_path / "my.pod")
    shared_pod["a"] = [1, 2, 3]
    shared_pod.set["a"][:] = [4]
    assert shared_pod["a"] == [4]


def test_writing_to_shared_pods_leaving_off_the_set_when_reading(tmp_path: Path, capsys) -> None:
    shared_pod = tastypy.SharedPOD(tmp_path / "my.pod")
    shared_pod["foo"] = {"baz": ["fizz"]}
    print(shared_pod.set["foo"]["baz"][0])
    print(shared_pod["foo"]["baz"][0])
    proxy, value = capsys.readouterr().out.splitlines()
    assert "set['foo']['baz'][0]" in proxy and "fizz" not in proxy
    assert value == "fizz"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_shared_pod_multiprocessing_example(method: str, tmp_path: Path) -> None:
    shown = run(EXAMPLE.format(method=method), tmp_path)
    assert shown.splitlines() == [f"{i} {i**2}" for i in range(25)]


def test_shared_persistent_ordered_dict_reference_set_attribute(tmp_path: Path) -> None:
    shared_pod = SharedPOD(tmp_path / "my.pod", init={"some": {"key": 0, "list": []}})
    shared_pod["some"]["key"] += 42
    shared_pod["some"]["list"].append("forty-two")
    shared_pod.set["some"]["key"] += 42
    shared_pod.set["some"]["list"].append("forty-two")
    assert shared_pod["some"] == {"key": 84, "list": ["forty-two", "forty-two"]}


def test_shared_persistent_ordered_dict_reference_methods(tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod", init={}, gzipped=False, file_size=1000, sync_at=1000)
    pod.update({"a": 1}, b=2)
    pod.mark_dirty("a")
    pod.sync_key("a")
    pod.hold()
    pod["c"] = 3
    pod.unhold()
    pod.revert()
    assert list(pod.iteritems()) == pod.items() == [("a", 1), ("b", 2), ("c", 3)]
    assert list(pod.iterkeys()) == pod.keys() == ["a", "b", "c"]
    assert list(pod.itervalues()) == pod.values() == [1, 2, 3]
    pod.lock()
    pod["d"] = 4
    pod.unlock()
    pod.close()
    assert SharedPOD(tmp_path / "my.pod").keys() == ["a", "b", "c", "d"]


# -- ProgressTracker ------------------------------------------------------------------------------------------

WEB = {"/": ["/a", "/b"], "/a": ["/b", "/c"], "/b": [], "/c": ["/"], "/gone": None}


def fetch(url: str, fetched: list[str]) -> tuple[bool, list[str]]:
    fetched.append(url)
    links = WEB[url]
    return links is not None, links or []


def test_progress_tracker_crawl_with_a_pod(tmp_path: Path) -> None:
    fetched: list[str] = []

    def crawl(seed_url: str) -> None:
        url_pod = tastypy.POD(tmp_path / "urls.pod")
        if seed_url not in url_pod:
            url_pod[seed_url] = {"tries": 0, "done": False}

        for url in url_pod:
            # If we've fetched this url already, skip it
            if url_pod[url]["done"]:
                continue

            # If we've tried this url too many times, skip it
            if url_pod[url]["tries"] > 3:
                continue

            # Record that an attempt is being made to crawl this url
            url_pod[url]["tries"] += 1

            # Attempt to crawl the url, move on if we don't succeed
            success, found_links = fetch(url, fetched)
            if not success:
                continue

            # Add the new links we found, and mark this url done
            for found_url in found_links:
                if found_url not in url_pod:
                    url_pod[found_url] = {"tries": 0, "done": False}
            url_pod[url]["done"] = True

    crawl("/")
    assert fetched == ["/", "/a", "/b", "/c"]
    for _ in range(6):
        crawl("/gone")
    assert fetched == ["/", "/a", "/b", "/c", *["/gone"] * 4]


def test_progress_tracker_crawl_with_a_tracker(tmp_path: Path) -> None:
    fetched: list[str] = []

    def crawl(seed_url: str) -> None:
        url_tracker = tastypy.Tracker(tmp_path / "urls.tracker", max_tries=3)
        url_tracker.add_if_absent(seed_url)

        for url in url_tracker.try_keys():
            # Attempt to crawl the url, move on if we don't succeed
            success, found_links = fetch(url, fetched)
            if not success:
                continue

            # Add the new links we found, and mark this url done
            url_tracker.add_many_if_absent(found_links)
            url_tracker.mark_done(url)

    crawl("/")
    assert fetched == ["/", "/a", "/b", "/c"]
    for _ in range(6):
        crawl("/gone")
    assert fetched == ["/", "/a", "/b", "/c", *["/gone"] * 3]


def test_progress_tracker_resumes_after_a_crash(tmp_path: Path) -> None:
    code = """
        import os, signal
        from holdfast.compat.tastypy import Tracker
        tracker = Tracker('tasks')
        tracker.add_many_if_absent(range(6))
        for key in tracker.try_keys():
            if key == {crash}:
                tracker.sync()
                os.kill(os.getpid(), signal.SIGKILL)
            tracker[key]['result'] = key * 10
            tracker.mark_done(key)
        print([tracker.tries(key) for key in tracker], tracker.percent_done())
    """
    run(code.format(crash=3), tmp_path, signum=signal.SIGKILL)
    assert run(code.format(crash=-1), tmp_path) == "[1, 1, 1, 2, 1, 1] 100.00 %\n"


def test_progress_tracker_stores_other_data_with_a_task(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "tasks")
    tracker.add("a")
    tracker["a"]["output"] = [1, 2]
    tracker.sync()
    tracker.revert()
    assert tracker["a"] == {"_tries": 0, "_done": False, "_aborted": False, "output": [1, 2]}


# -- SharedProgressTracker ------------------------------------------------------------------------------------


def try_numbers(tracker: SharedTracker, most: int) -> None:
    for key in range(most):
        if tracker.should_try(key):
            tracker.set["total"]["sum"] += key
            tracker.mark_done(key)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_with_shared_progress_trackers(method: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context(method)
    tracker = SharedTracker(tmp_path / "tasks", max_tries=1, init={"total": {"sum": 0, "_done": True}})
    tracker.add_many(range(40))
    children = [context.Process(target=try_numbers, args=(tracker, 40)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert tracker["total"]["sum"] == sum(range(40))
    assert tracker.num_done() == 41 and tracker.num_tried() == 40
    assert {tracker.tries(key) for key in range(40)} == {1}


def test_multiprocessing_with_shared_progress_trackers_survives_sigterm(tmp_path: Path) -> None:
    program = start(
        """
        import threading
        from holdfast.compat.tastypy import SharedTracker
        tracker = SharedTracker('tasks')
        tracker.add('a')
        tracker.set['a']['n'] = 1
        print('ready', flush=True)
        threading.Event().wait(30)
        """,
        tmp_path,
    )
    assert program.stdout is not None and program.stdout.readline() == "ready\n"
    program.terminate()
    assert finish(program)[0] == -signal.SIGTERM
    assert SharedTracker(tmp_path / "tasks")["a"]["n"] == 1
