"""What the document of tastypy leaves to be guessed, each point as its users rely on it."""

import math
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.compat.programs import run

import holdfast
from holdfast.compat import tastypy
from holdfast.compat.tastypy import POD, DuplicateKeyError, SharedPOD, SharedTracker, Tracker


@pytest.fixture(params=[POD, SharedPOD])
def pod(request: pytest.FixtureRequest, tmp_path: Path):
    return request.param(tmp_path / "my.pod")


@pytest.fixture(params=[Tracker, SharedTracker])
def tracker(request: pytest.FixtureRequest, tmp_path: Path):
    return request.param(tmp_path / "tasks")


# -- order ----------------------------------------------------------------------------------------------------


def test_order_is_that_of_first_insertion(pod, tmp_path: Path) -> None:
    for key in ("z", "a", 3, "m"):
        pod[key] = 0
    pod["a"] = 1
    assert pod.keys() == ["z", "a", 3, "m"]
    pod.sync()
    pod["z"] = 2
    assert list(pod) == ["z", "a", 3, "m"]
    pod.close()
    assert POD(tmp_path / "my.pod").items() == [("z", 2), ("a", 1), (3, 0), ("m", 0)]


@pytest.mark.parametrize("iterate", ["__iter__", "iterkeys", "iteritems", "itervalues"])
def test_iterating_yields_what_is_appended_meanwhile(pod, iterate: str) -> None:
    pod[0] = 0
    seen = 0
    for _ in getattr(pod, iterate)():
        seen += 1
        if seen < 700:
            pod[seen] = seen
    assert seen == len(pod) == 700


def test_keys_values_and_items_are_lists(pod) -> None:
    pod.update(a=1, b=2)
    assert (pod.keys(), pod.values(), pod.items()) == (["a", "b"], [1, 2], [("a", 1), ("b", 2)])


# -- gzipped, file_size, sync_at ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"gzipped": True}, {"file_size": 7}])
def test_gzipped_and_file_size_are_accepted_and_checked_for_conflicts(options, tmp_path: Path) -> None:
    first = POD(tmp_path / "my.pod", **options)
    first["a"] = 1
    assert POD(tmp_path / "my.pod", **options)["a"] == 1
    with pytest.raises(ValueError, match=next(iter(options))):
        POD(tmp_path / "my.pod")
    assert POD(tmp_path / "my.pod", clone=False)["a"] == 1


def test_a_refused_instance_changes_nothing_and_leaves_nothing_open(tmp_path: Path) -> None:
    first = POD(tmp_path / "my.pod")
    with pytest.raises(ValueError, match="gzipped"):
        POD(tmp_path / "my.pod", init={"a": 1}, gzipped=True)
    assert first == {}
    first.close()
    assert POD(tmp_path / "my.pod", gzipped=True) == {}


def test_gzipped_means_nothing_to_what_is_stored(tmp_path: Path) -> None:
    first = POD(tmp_path / "my.pod", gzipped=True)
    first["a"] = 1
    first.close()
    assert POD(tmp_path / "my.pod", gzipped=False)["a"] == 1


def test_another_sync_at_is_no_conflict(tmp_path: Path) -> None:
    assert POD(tmp_path / "my.pod", sync_at=5).sync_at == 5
    assert POD(tmp_path / "my.pod", sync_at=6).sync_at == 6


def test_no_timer_syncs(tmp_path: Path) -> None:
    POD(tmp_path / "my.pod")["a"] = 1
    assert [thread.name for thread in threading.enumerate() if "holdfast" in thread.name] == []


# -- .set -----------------------------------------------------------------------------------------------------


def test_set_extends_a_path_and_runs_any_method_there(pod) -> None:
    pod["a"] = {"list": [3, 1, 2], "dict": {"x": 1}}
    pod.set["a"]["list"].sort()
    pod.set["a"]["list"].insert(0, 0)
    assert pod.set["a"]["list"].pop() == 3
    assert pod.set["a"]["dict"].setdefault("y", 2) == 2
    pod.set["a"]["dict"].update(z=3)
    del pod.set["a"]["dict"]["x"]
    assert pod["a"] == {"list": [0, 1, 2], "dict": {"y": 2, "z": 3}}


def test_set_assigns_slices(pod) -> None:
    pod["a"] = [1, 2, 3]
    pod.set["a"][1:] = [4, 5, 6]
    assert pod["a"] == [1, 4, 5, 6]
    pod.set["a"][:] = [4]
    assert pod["a"] == [4]


def test_set_runs_operators_and_gives_their_result(pod) -> None:
    pod["n"] = 6
    assert pod.set["n"] + 1 == 7
    assert pod.set["n"] == 6 and pod.set["n"] > 5 and pod.set["n"] != 7
    assert -pod.set["n"] == -6 and pod.set["n"] % 4 == 2


@pytest.mark.parametrize(
    ("change", "result"),
    [
        (lambda n: n.__iadd__(2), 9),
        (lambda n: n.__isub__(2), 5),
        (lambda n: n.__imul__(2), 14),
        (lambda n: n.__ifloordiv__(2), 3),
        (lambda n: n.__imod__(4), 3),
        (lambda n: n.__ilshift__(1), 14),
        (lambda n: n.__ior__(8), 15),
    ],
)
def test_set_changes_in_place(pod, change, result: int) -> None:
    pod["n"] = 7
    change(pod.set["n"])
    assert pod["n"] == result


def test_set_at_the_top_has_the_methods_of_the_pod(pod) -> None:
    pod.set["a"] = 1
    pod.set.update(b=2)
    pod.set["b"] += 1
    assert pod.set.pop("a") == 1
    del pod.set["b"]
    assert pod == {}


def test_set_refuses_keys_as_the_pod_does(pod) -> None:
    with pytest.raises(ValueError, match=r"3\.5"):
        pod.set[3.5] = 1
    with pytest.raises(ValueError, match="None"):
        pod.set[None]["x"] += 1


def test_set_with_an_error_inside_changes_nothing(pod) -> None:
    pod["a"] = {"n": 1, "list": [1, "x", 2]}
    with pytest.raises(TypeError):
        pod.set["a"]["list"].sort()
    with pytest.raises(KeyError):
        pod.set["a"]["missing"] += 1
    with pytest.raises(ValueError, match="set"):
        pod.set["a"]["n"] = {1}
    assert pod["a"] == {"n": 1, "list": [1, "x", 2]}


@pytest.mark.parametrize("read", [len, iter, list, bool, lambda path: 1 in path])
def test_set_says_clearly_that_it_is_not_for_reading(pod, read) -> None:
    pod["a"] = [1]
    with pytest.raises(TypeError, match=r"leave `\.set` out"):
        read(pod.set["a"])


def add_many_times(pod: SharedPOD, times: int) -> None:
    for _ in range(times):
        pod.set["n"] += 1
        pod.set["deep"]["list"][0] += 1


def test_set_changes_in_place_atomically_between_processes(tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod", init={"n": 0, "deep": {"list": [0]}})
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=add_many_times, args=(pod, 100)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert pod == {"n": 400, "deep": {"list": [400]}}


# -- a Tracker is a POD ---------------------------------------------------------------------------------------


def test_a_tracker_is_a_pod(tracker) -> None:
    assert isinstance(tracker, POD)
    assert isinstance(tracker, Mapping)


def test_a_shared_tracker_is_a_shared_pod(tmp_path: Path) -> None:
    assert issubclass(SharedTracker, SharedPOD) and issubclass(SharedTracker, Tracker)


def test_a_tracker_can_be_opened_as_a_pod(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "tasks", max_tries=1)
    tracker.add("a")
    assert POD(tmp_path / "tasks")["a"]["_done"] is False
    assert tracker.should_try("a") and not tracker.should_try("a")


def test_a_pod_can_not_be_opened_as_a_tracker(tmp_path: Path) -> None:
    POD(tmp_path / "my.pod")["a"] = 1
    with pytest.raises(ValueError, match="open it with POD"):
        Tracker(tmp_path / "my.pod")


# -- the threshold, hold and unhold ---------------------------------------------------------------------------


def test_threshold_counts_distinct_keys(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", sync_at=3)
    for n in range(50):
        pod["a"] = n
        pod["b"] = n
    assert pod.dirty() == {"a", "b"}
    pod["c"] = 0
    assert pod.dirty() == set()


def test_threshold_counts_nested_changes(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", init={n: {"log": []} for n in range(3)}, sync_at=3)
    pod.sync()
    for _ in range(10):
        pod[0]["log"].append(1)
        pod.set[1]["log"].append(1)
    assert pod.dirty() == {0, 1}
    pod[2]["log"].append(1)
    assert pod.dirty() == set()


def test_threshold_of_one_writes_each_change(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", sync_at=1)
    pod["a"] = []
    pod["a"].append(1)
    assert pod.dirty() == set()
    pod.revert()
    assert pod["a"] == [1]


def test_threshold_can_be_changed(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", sync_at=100)
    pod.update({n: n for n in range(5)})
    pod.sync_at = 6
    assert len(pod.dirty()) == 5
    pod["one more"] = 1
    assert pod.dirty() == set()


def test_reads_make_nothing_dirty(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", init={"a": {"b": [1]}}, sync_at=1)
    assert pod["a"]["b"][0] == 1 and list(pod.iteritems()) and pod.get("a")
    assert pod.dirty() == set()


def test_dirty_is_a_copy(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", init={"a": 1})
    pod.dirty().clear()
    assert pod.dirty() == {"a"}


def test_hold_lets_a_manual_sync_through(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", sync_at=2)
    pod.hold()
    pod.update({n: n for n in range(5)})
    assert len(pod.dirty()) == 5
    pod.sync()
    assert pod.dirty() == set()


def test_hold_does_not_keep_the_exit_from_syncing(tmp_path: Path) -> None:
    code = "from holdfast.compat.tastypy import POD; p = POD('my.pod', sync_at=1); p.hold(); p['a'] = 1"
    run(code, tmp_path)
    assert POD(tmp_path / "my.pod")["a"] == 1


def test_unhold_syncs_at_once_if_over_the_threshold(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", sync_at=3)
    pod.hold()
    pod.update({n: n for n in range(3)})
    pod.unhold()
    assert pod.dirty() == set()


def test_unhold_under_the_threshold_waits_for_it(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", sync_at=10)
    pod.hold()
    for n in range(10):
        pod[n % 9] = n
    pod.unhold()
    assert len(pod.dirty()) == 9
    pod["tenth"] = 1
    assert pod.dirty() == set()


# -- instances ------------------------------------------------------------------------------------------------


def test_same_path_is_same_data_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    os.symlink(tmp_path / "my.pod", tmp_path / "link.pod")
    first = POD("my.pod")
    first["a"] = []
    for path in ("./my.pod", "~/my.pod", "link.pod", tmp_path / "x" / ".." / "my.pod"):
        POD(path)["a"].append(str(path))
    assert len(first["a"]) == 4
    assert first.dirty() == {"a"}


def test_hold_and_sync_at_belong_to_the_instance(tmp_path: Path) -> None:
    patient, eager, held = (POD(tmp_path / "my.pod", sync_at=n) for n in (100, 3, 3))
    held.hold()
    for n in range(5):
        held[n] = []
        patient[n].append(n)
    assert len(patient.dirty()) == 5
    eager[0].append(1)
    assert patient.dirty() == set()
    held.update(dict.fromkeys(range(5), 0))
    assert len(eager.dirty()) == 5


def test_max_tries_belongs_to_the_instance(tmp_path: Path) -> None:
    twice, ever = Tracker(tmp_path / "tasks", max_tries=2), Tracker(tmp_path / "tasks")
    ever.add("a")
    assert ever.should_try("a") and ever.should_try("a") and ever.should_do("a")
    assert not twice.should_do("a") and twice.max_tries == 2
    assert ever.should_try("a")


def test_close_of_one_instance_leaves_the_others_open(tmp_path: Path) -> None:
    one, other = POD(tmp_path / "my.pod"), POD(tmp_path / "my.pod")
    one["a"] = 1
    one.close()
    one.close()
    assert other["a"] == 1 and other.dirty() == set()
    with pytest.raises(holdfast.ClosedError, match=r"my\.pod"):
        one["a"]
    with pytest.raises(holdfast.ClosedError):
        one.hold()
    assert "closed" in repr(one)


def test_init_is_an_update_after_opening(pod, tmp_path: Path) -> None:
    pod.update(a=1, b=2)
    again = type(pod)(tmp_path / "my.pod", init=[("b", 3), ("c", 4)])
    assert again == {"a": 1, "b": 3, "c": 4}
    assert type(pod)(tmp_path / "my.pod", {"a": 5})["a"] == 5
    assert type(pod)(tmp_path / "my.pod", pod) == {"a": 5, "b": 3, "c": 4}


def test_update_takes_mappings_pairs_and_keywords_and_the_right_wins(pod) -> None:
    pod.update({"a": 1}, [("a", 2), ("b", 2)], b=3)
    assert pod == {"a": 2, "b": 3}


def test_path_may_need_directories(tmp_path: Path) -> None:
    POD(tmp_path / "a" / "b" / "my.pod")["x"] = 1
    assert (tmp_path / "a" / "b" / "my.pod").is_file()


# -- the end of the program -----------------------------------------------------------------------------------


def test_sigterm_runs_the_handler_that_was_there(tmp_path: Path) -> None:
    shown = run(
        """
        import os, signal, sys
        from holdfast.compat.tastypy import POD
        def mine(signum, frame):
            print('mine')
            sys.exit(7)
        signal.signal(signal.SIGTERM, mine)
        pod = POD('my.pod')
        pod['a'] = 1
        os.kill(os.getpid(), signal.SIGTERM)
        """,
        tmp_path,
        status=7,
    )
    assert shown == "mine\n"
    assert POD(tmp_path / "my.pod")["a"] == 1


def test_sigint_is_still_a_keyboard_interrupt(tmp_path: Path) -> None:
    shown = run(
        """
        import os, signal
        from holdfast.compat.tastypy import POD
        pod = POD('my.pod')
        pod['a'] = 1
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            print(pod['a'])
        """,
        tmp_path,
    )
    assert shown == "1\n"


def test_opening_in_a_thread_never_fails(tmp_path: Path) -> None:
    run(
        """
        import threading
        from holdfast.compat.tastypy import POD
        def work():
            POD('my.pod')['a'] = 1
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """,
        tmp_path,
    )
    assert POD(tmp_path / "my.pod")["a"] == 1


@pytest.mark.parametrize("face", ["POD", "SharedPOD"])
def test_sigterm_syncs(face: str, tmp_path: Path) -> None:
    code = f"""
        import os, signal, threading
        from holdfast.compat.tastypy import {face}
        pod = {face}('my.pod')
        pod['a'] = []
        pod['a'].append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(30)
    """
    run(code, tmp_path, signum=signal.SIGTERM)
    assert POD(tmp_path / "my.pod")["a"] == [1]


# -- keys and values ------------------------------------------------------------------------------------------


KEYS = [
    "text",
    "",
    "tab\tand\\back\\\\slash\n",
    "ünïcode \U0001f600",
    0,
    -7,
    10**30,
    ("a", 1),
    ((), ("x", (2,))),
    ("1",),
    (1,),
]


def test_keys_are_strings_integers_and_nested_tuples(pod, tmp_path: Path) -> None:
    for n, key in enumerate(KEYS):
        pod[key] = n
    pod.close()
    again = POD(tmp_path / "my.pod")
    assert again.items() == [(key, n) for n, key in enumerate(KEYS)]


@pytest.mark.parametrize(
    "key",
    [None, 3.5, 1.0, b"bytes", [1], {"a"}, ("a", None), ("a", [1]), object()],
    ids=lambda key: type(key).__name__,
)
def test_other_keys_raise_value_error(pod, key) -> None:
    for use in (
        lambda: pod[key],
        lambda: pod.__setitem__(key, 1),
        lambda: pod.__delitem__(key),
        lambda: key in pod,
        lambda: pod.get(key),
        lambda: pod.update([(key, 1)]),
        lambda: pod.mark_dirty(key),
    ):
        with pytest.raises(ValueError, match="can't be a key"):
            use()
    assert pod == {}


def test_a_missing_key_raises_key_error(pod) -> None:
    for use in (pod.__getitem__, pod.__delitem__, pod.pop, pod.sync_key, pod.mark_dirty):
        with pytest.raises(KeyError, match="missing"):
            use("missing")


def test_integer_and_string_keys_are_two_keys(pod) -> None:
    pod[1], pod["1"] = "int", "str"
    assert pod.items() == [(1, "int"), ("1", "str")]


def test_nested_keys_become_strings_wherever_they_are_put(pod) -> None:
    pod["a"] = {1: {2: 3, None: 4, True: 5, 1.5: 6}}
    assert pod["a"] == {"1": {"2": 3, "null": 4, "true": 5, "1.5": 6}}
    pod["a"][7] = [{8: 9}]
    pod["a"].update({10: 11})
    pod.update({"b": {17: 18}}, c=[{19: 20}])
    assert (pod["b"], pod["c"]) == ({"17": 18}, [{"19": 20}])
    pod["a"]["7"].append({12: 13})
    pod.set["a"]["7"][0][14] = {15: 16}
    assert pod["a"]["7"] == [{"8": 9, "14": {"15": 16}}, {"12": 13}]
    assert pod["a"]["10"] == 11


def test_values_are_what_they_will_be_after_a_restart(pod, tmp_path: Path) -> None:
    value = {
        "tuple": (1, (2,)),
        "nan": math.nan,
        "inf": math.inf,
        "-inf": -math.inf,
        "float": 1.0,
        "big": 2**80,
    }
    pod["a"] = value
    before = pod["a"]
    assert before["tuple"] == [1, [2]]
    shown = repr(before)
    pod.close()
    assert repr(POD(tmp_path / "my.pod")["a"]) == shown
    assert "nan" in shown and "-inf" in shown


def test_an_assigned_value_is_a_copy(pod) -> None:
    mine = {"list": []}
    pod["a"] = mine
    mine["list"].append(1)
    assert pod["a"] == {"list": []}


# -- Tracker --------------------------------------------------------------------------------------------------


def test_a_task_is_allowed_while_it_has_tries_left(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "tasks", max_tries=2)
    tracker.add("a")
    assert [tracker.should_try("a") for _ in range(4)] == [True, True, False, False]
    assert tracker.tries("a") == 2
    assert list(tracker.try_keys()) == list(tracker.todo_keys()) == []
    tracker.decrement_tries("a")
    assert tracker.should_do("a") and tracker.tries("a") == 1


def test_no_max_tries_is_no_limit(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "tasks")
    tracker.add("a")
    for _ in range(50):
        tracker.increment_tries("a")
    assert tracker.should_do("a") and list(tracker.todo_keys()) == ["a"]


def test_a_missing_task_is_not_done_and_else_raises_key_error(tracker) -> None:
    assert tracker.done("missing") is False
    for ask in (
        tracker.tries,
        tracker.aborted,
        tracker.should_do,
        tracker.should_try,
        tracker.mark_done,
        tracker.abort,
    ):
        with pytest.raises(KeyError):
            ask("missing")


def test_add_of_what_is_there_raises(tracker) -> None:
    tracker.add("a")
    with pytest.raises(DuplicateKeyError):
        tracker.add("a")
    with pytest.raises(tastypy.PersistentOrderedDictException):
        tracker.add_many(["b", "a"])
    assert tracker.keys() == ["a"]
    tracker.increment_tries("a")
    tracker.add_if_absent("a")
    tracker.add_many_if_absent(["a", "b", "b"])
    assert tracker.keys() == ["a", "b"] and tracker.tries("a") == 1


def test_a_new_task_has_the_documented_fields(tracker) -> None:
    tracker.add("a")
    assert tracker["a"] == dict(tastypy.DEFAULT_PROGRESS_TRACKER_MAPPING)
    assert tracker["a"] == {"_tries": 0, "_done": False, "_aborted": False}


def test_aborted_tasks_are_passed_over_unless_allowed(tracker) -> None:
    tracker.add_many(["a", "b"])
    tracker.abort("a")
    assert tracker.aborted("a") and not tracker.should_do("a") and tracker.should_do("a", allow_aborted=True)
    assert list(tracker.todo_keys()) == ["b"]
    assert list(tracker.todo_keys(allow_aborted=True)) == ["a", "b"]
    assert list(tracker.try_keys(True)) == ["a", "b"]
    assert list(tracker.aborted_keys()) == ["a"]
    assert [key for key, task in tracker.aborted_items() if task["_aborted"]] == ["a"]
    assert [task["_tries"] for task in tracker.aborted_values()] == [1]
    tracker.unabort("a")
    assert tracker.should_do("a")


def test_try_iterators_count_and_todo_iterators_do_not(tracker) -> None:
    tracker.add_many(["a", "b"])
    tracker.mark_done("b")
    assert [key for key, _ in tracker.todo_items()] == ["a"]
    assert [task["_tries"] for task in tracker.todo_values()] == [0]
    assert list(tracker.try_keys()) == ["a"]
    assert [(key, task["_tries"]) for key, task in tracker.try_items()] == [("a", 2)]
    assert [task["_tries"] for task in tracker.try_values()] == [3]
    tracker.mark_not_done("b")
    tracker.reset_tries("a")
    assert [(key, task["_tries"]) for key, task in tracker.todo_items()] == [("a", 0), ("b", 0)]


def test_try_keys_asks_when_the_turn_of_a_task_comes(tracker) -> None:
    tracker.add_many(range(300))
    seen = []
    for key in tracker.try_keys():
        seen.append(key)
        if key < 299:
            tracker.mark_done(key + 1)
        if key == 298:
            tracker.add(1000)
    assert seen == [*range(0, 300, 2), 1000]


def test_gates_that_add_what_is_missing(tracker) -> None:
    assert tracker.should_do_add("a") and tracker.tries("a") == 0
    assert tracker.should_try_add("b") and tracker.tries("b") == 1
    tracker.mark_done("a")
    assert not tracker.should_do_add("a") and not tracker.should_try_add("a")


def test_update_merges_into_tasks_and_adds_what_is_missing(tracker) -> None:
    tracker.add("a")
    tracker.increment_tries("a")
    tracker.update({"a": {"x": 1}, "b": {"_done": True}}, [("a", {"y": 2})], c={"z": 3})
    assert tracker["a"] == {"_tries": 1, "_done": False, "_aborted": False, "x": 1, "y": 2}
    assert tracker["b"] == {"_tries": 0, "_done": True, "_aborted": False}
    assert tracker["c"]["z"] == 3
    with pytest.raises(ValueError, match="a task is a dict"):
        tracker.update({"a": 5})


def test_init_merges_into_tasks(tracker, tmp_path: Path) -> None:
    tracker.add("a")
    tracker.mark_done("a")
    again = type(tracker)(tmp_path / "tasks", 0, {"a": {"x": 1}})
    assert again.done("a") and again["a"]["x"] == 1


def test_counts_are_right_between_instances_after_update_and_when_set_directly(
    tracker, tmp_path: Path
) -> None:
    other = type(tracker)(tmp_path / "tasks")
    tracker.add_many(range(8))
    other.mark_done(0)
    other.mark_done(0)
    tracker[1]["_done"] = True
    tracker.update({2: {"_done": True, "_tries": 4}})
    other.abort(3)
    other.increment_tries(4)
    other.increment_tries(4)
    other.reset_tries(4)
    assert [t.num_done() for t in (tracker, other)] == [3, 3]
    assert [t.num_tried() for t in (tracker, other)] == [1, 1]
    assert [t.num_aborted() for t in (tracker, other)] == [1, 1]
    tracker.mark_not_done(0)
    del tracker[1]
    assert (other.num_done(), other.num_tried(), other.num_aborted(), len(other)) == (1, 1, 1, 7)


def test_counts_follow_a_revert(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "tasks")
    tracker.add_many(range(4))
    tracker.mark_done(0)
    tracker.sync()
    tracker.mark_done(1)
    tracker.add("x")
    tracker.revert()
    assert (tracker.num_done(), len(tracker)) == (1, 4)


def test_fractions_and_percentages(tracker) -> None:
    tracker.add_many(range(3))
    tracker.mark_done(0)
    tracker.increment_tries(0)
    tracker.increment_tries(1)
    tracker.abort(2)
    assert tracker.fraction_done() == 1 / 3 and tracker.fraction_tried() == 2 / 3
    assert tracker.fraction_aborted() == 1 / 3
    assert tracker.percent_done() == tracker.percent_aborted() == "33.33 %"
    assert tracker.percent_not_done(1) == "66.7 %" and tracker.percent_tried(0) == "67 %"
    assert tracker.percent_not_tried() == "33.33 %" and tracker.percent_not_aborted() == "66.67 %"
    assert tracker.percent(0.347, 2) == "34.70 %"


def test_fractions_of_an_empty_tracker_are_zero(tracker) -> None:
    assert tracker.fraction_done() == tracker.fraction_tried() == tracker.fraction_aborted() == 0
    assert tracker.percent_done() == "0.00 %" and tracker.percent_not_done() == "100.00 %"


# -- shared ---------------------------------------------------------------------------------------------------


def read_modify_write(pod: SharedPOD, times: int) -> None:
    for _ in range(times):
        with pod.locked():
            pod["n"] = pod["n"] + 1


def test_locked_keeps_others_from_changing(tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod", init={"n": 0})
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=read_modify_write, args=(pod, 50)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert pod["n"] == 150


def put_and_tell(pod: SharedPOD, end) -> None:
    end.send("ready")
    pod["by"] = "child"
    end.send("done")


def test_lock_makes_others_wait_until_unlock(tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    pod.lock()
    child = context.Process(target=put_and_tell, args=(pod, theirs))
    child.start()
    assert ours.recv() == "ready"
    assert not ours.poll(0.2)
    pod["by"] = "parent"
    assert "by" in pod
    pod.unlock()
    assert ours.recv() == "done"
    child.join()
    assert pod["by"] == "child"


def test_locked_lets_go_after_an_error(tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod")
    with pytest.raises(ZeroDivisionError), pod.locked() as same:
        assert same is pod
        pod["a"] = 1 / 0
    with pytest.raises(ValueError, match="not locked"):
        pod.unlock()


def test_a_shared_pod_keeps_nothing_back(tmp_path: Path) -> None:
    pod = SharedPOD(tmp_path / "my.pod")
    pod.hold()
    pod["a"] = [1]
    pod["a"].append(2)
    assert pod.dirty() == set()
    pod.revert()
    assert pod["a"] == [1, 2]


@pytest.mark.parametrize("face", [POD, SharedPOD, Tracker, SharedTracker])
def test_an_instance_travels_with_its_options(face, tmp_path: Path) -> None:
    first = face(tmp_path / "x", gzipped=True, file_size=7, sync_at=3)
    first["a"] = {"n": 1}
    again = pickle.loads(pickle.dumps(first))
    assert type(again) is face and again == first and again.sync_at == 3
    assert first.dirty() == set()


# -- all that a dict can do -----------------------------------------------------------------------------------


def test_a_pod_is_as_much_a_dict_as_one_expects(pod) -> None:
    pod.update(a=1, b=2, c={"x": [1]})
    assert pod == {"a": 1, "b": 2, "c": {"x": [1]}} and pod != {} and pod != 5
    assert len(pod) == 3 and "a" in pod and "z" not in pod
    assert pod.get("z") is None and pod.get("z", 5) == 5 and pod.setdefault("a", 9) == 1
    assert pod.setdefault("d", []) == [] and pod.pop("d") == [] and pod.pop("d", 7) == 7
    assert dict(pod) == {**pod} == pod.copy() == {"a": 1, "b": 2, "c": {"x": [1]}}
    assert list(reversed(pod)) == ["c", "b", "a"]
    assert pod | {"e": 1} == {**pod, "e": 1} and {"a": 0, "e": 1} | pod == {"e": 1, **pod}
    pod |= {"a": 3}
    del pod["b"]
    pod.move_to_end("a")
    assert pod.popitem() == ("a", 3)
    assert "'c': {'x': [1]}" in repr(pod) and "my.pod" in repr(pod)
    assert "<table>" in pod._repr_html_()
    pod.clear()
    assert not pod and pod == {}


def test_the_public_names_of_the_original_are_there() -> None:
    assert tastypy.DEFAULT_FILE_SIZE == tastypy.DEFAULT_SYNC_AT == 1000
    assert tastypy.ITERITEMS_CHUNK_SIZE == tastypy.ITERKEYS_CHUNK_SIZE == 1000
    assert issubclass(tastypy.PersistentOrderedDictIntegrityError, tastypy.PersistentOrderedDictException)
    assert all(hasattr(tastypy, name) for name in tastypy.__all__)


def test_the_hold_under_a_pod_is_an_ordinary_one(tmp_path: Path) -> None:
    pod = POD(tmp_path / "my.pod", init={"a": 1})
    pod.close()
    with holdfast.open(tmp_path / "my.pod") as hold:
        assert hold.structures() == {"pod": "dict"}
        assert hold.check() == []


def test_a_pod_opens_a_hold_with_one_structure_of_any_name(tmp_path: Path) -> None:
    with holdfast.open(tmp_path / "my.hold") as hold:
        hold.dict("pages")["/"] = 1
    pod = POD(tmp_path / "my.hold")
    assert pod == {"/": 1}
    pod.close()
    with holdfast.open(tmp_path / "my.hold") as hold:
        hold.dict("more")
    with pytest.raises(ValueError, match="several structures"):
        POD(tmp_path / "my.hold")
