"""A program that changes a hold is killed at some instant; then the hold must be as it was after one of its steps.

    python -m holdfast.testing.faults PLACE --rounds 1000 --seed 7

Each round forks a child that makes random changes (loading, syncing, overwriting, deleting, folding, transactions,
closing and opening again) and says on a pipe what it is about to do and what was acknowledged. It is killed by
SIGKILL: from outside, at any time, or (`--statements`) by itself, at each statement that goes to SQLite in turn.
Afterwards `check()` must find nothing, and what is in the hold must be the state after the last acknowledged step or
after a later one that was begun. A step is one change, or all changes of a transaction.

A round is replayed by its seed.
"""

import argparse
import contextlib
import json
import os
import random
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from holdfast import clock
from holdfast import hold as holdfast
from holdfast.engine.connection import Database
from holdfast.errors import HoldfastError
from holdfast.journal import bulk, fold
from holdfast.structures import scanning

NAMES = ("values", "fields")
LONGEST_SECONDS = 0.25  # until a child is killed
CHANGES = 400  # in one life of a child

Changed = list[Any]  # [structure, key, value] or [structure, key] for a deletion
Content = dict[str, dict[str, Any]]


def shrink() -> None:
    """Make folds, slices and pages so small that a short run goes through all of them, often."""
    fold.SLICE_ROWS = fold.SLICE_KEYS = 3
    fold.LEAST_BACKLOG, fold.MOST_BATCHES, fold.KEPT_BATCHES = 6, 12, 4
    fold.DELETED_AT_ONCE = 1
    bulk.LEAST, bulk.CHUNK = 12, 5
    scanning.PAGE = 3


# -- the child ------------------------------------------------------------------------------------------------


class Worker:
    """Makes random changes, and tells each step before it is made and again when it can't be lost any more."""

    def __init__(self, path: str, seed: int, tell: Callable[[list[Any]], None]) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.tell = tell
        self.shared = self.random.random() < 0.4
        self.steps = 0
        self._open()

    def _open(self) -> None:
        options: dict[str, Any] = {"sync_changes": self.random.choice([3, 8, 1000]), "sync_seconds": None}
        options["durability"] = self.random.choice(["normal", "normal", "write", "full"])
        self.hold = holdfast.open(self.path, shared=self.shared, **options)
        self.dicts = {
            "values": self.hold.dict("values"),
            "fields": self.hold.dict("fields", merge="fields"),
        }

    def live(self) -> None:
        """Do random things until there were enough."""
        actions = [
            (12, self.assign), (6, self.change_inside), (4, self.delete), (2, self.move), (3, self.transaction),
            (1, self.give_up), (4, self.sync), (1, self.load), (1, self.fold), (1, self.reopen), (2, self.read),
        ]  # fmt: skip
        weights, choices = zip(*actions, strict=True)
        for _ in range(CHANGES):
            (action,) = self.random.choices(choices, weights)
            action()
        self.hold.close()
        self._acknowledge()

    def _step(self, changes: list[Changed]) -> None:
        self.steps += 1
        self.tell(["step", changes])

    def _acknowledge(self) -> None:
        self.tell(["done", self.steps])

    def _after(self) -> None:
        if self.shared:
            self._acknowledge()

    def _some(self) -> tuple[str, Any, str]:
        name = self.random.choice(NAMES)
        return name, self.dicts[name], f"k{self.random.randrange(14)}"

    def _value(self) -> Any:
        n = self.random.randrange(1000)
        return self.random.choice([n, {"n": n, "list": [n, "x" * self.random.randrange(200)]}, [n], None])

    def assign(self) -> None:
        name, d, key = self._some()
        value = self._value()
        self._step([[name, key, value]])
        d[key] = value
        self._after()

    def change_inside(self) -> None:
        name, d, key = self._some()
        value = d.get(key)
        if isinstance(value, dict):
            self._step([[name, key, {**value, "n": -1, "new": [1]}]])
            d.set[key].update({"n": -1, "new": [1]})
        elif isinstance(value, list):
            self._step([[name, key, [*value, 5]]])
            value.append(5)
        self._after()

    def delete(self) -> None:
        name, d, key = self._some()
        if key in d:
            self._step([[name, key]])
            del d[key]
            self._after()

    def move(self) -> None:
        name, d, key = self._some()
        if key in d:
            self._step([[name, key], [name, key, _plain(d[key])]])
            d.move_to_end(key)
            self._after()

    def transaction(self) -> None:
        changes: list[Changed] = []
        for _ in range(self.random.randrange(1, 6)):
            name, _, key = self._some()
            changes.append([name, key, self._value()])
        # What was changed before goes to the file first, as a batch of its own: that is no new step.
        self._step(changes)
        with self.hold.transaction():
            for name, key, value in changes:
                self.dicts[name][key] = value
        self._acknowledge()

    def give_up(self) -> None:
        with contextlib.suppress(ZeroDivisionError), self.hold.transaction():
            self.dicts["values"]["never"] = 1
            self.dicts["fields"]["never"] = {"n": 1}
            raise ZeroDivisionError
        self._acknowledge()

    def load(self) -> None:
        pairs = {f"l{i}": [i, self.steps] for i in range(self.random.randrange(5, 25))}
        if self.shared:
            self._step([["values", key, value] for key, value in pairs.items()])
        else:
            self.hold.sync()
            for key, value in pairs.items():
                self._step([["values", key, value]])
        self.dicts["values"].update(pairs)
        self._after()

    def sync(self) -> None:
        self.hold.sync()
        self._acknowledge()

    def fold(self) -> None:
        self.hold.fold()
        self._acknowledge()

    def read(self) -> None:
        for d in self.dicts.values():
            sum(len(str(value)) for value in d.values())

    def reopen(self) -> None:
        self.hold.close()
        self._acknowledge()
        self.shared = self.random.random() < 0.4
        self._open()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _run_child(path: str, seed: int, pipe: int, kill_at: int | None) -> None:
    def tell(message: list[Any]) -> None:
        os.write(pipe, (json.dumps(message) + "\n").encode())

    code = 1
    try:
        with _killed_at(kill_at) if kill_at is not None else contextlib.nullcontext():
            Worker(path, seed, tell).live()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def _killed_at(countdown: int) -> Iterator[None]:
    """Kill this process at the `countdown`th statement, before or (every second one) after SQLite has it."""
    left, after = countdown // 2, countdown % 2

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(self: Database, *args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(self, *args)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    kept = {name: getattr(Database, name) for name in ("run", "many", "close")}
    for name, method in kept.items():
        setattr(Database, name, wrap(method))
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Database, name, method)


# -- the parent -----------------------------------------------------------------------------------------------


class Round(NamedTuple):
    """What came of one life: `problems` is empty if the hold kept its word."""

    seed: int
    steps: int
    acknowledged: int
    ended: bool  # the child came to its end before it was to be killed
    problems: list[str]


def run_round(path: str, seed: int, start: Content, kill_at: int | None = None) -> tuple[Round, Content]:
    """One child on the hold at `path`, which has the content `start`; also returns what is in it afterwards."""
    chance = random.Random(~seed)
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _run_child(path, seed, sending, kill_at)
    os.close(sending)
    told, code = _listen(child, receiving, None if kill_at is not None else chance)
    steps, acknowledged = _read(told)
    problems = [f"the child ended with code {code}"] if code not in (0, -signal.SIGKILL) else []
    content, found = _look(path)
    problems += found
    difference = None if problems else _difference(start, steps, acknowledged, content)
    problems += [difference] if difference else []
    return Round(seed, len(steps), acknowledged, code == 0, problems), content


def _listen(child: int, pipe: int, chance: random.Random | None) -> tuple[bytes, int]:
    """Everything that the child tells until its end; with `chance`, that is a SIGKILL at some instant."""
    # Some early, for opening and making the file; the delay is even otherwise.
    seconds = 60.0 if chance is None else chance.choice([0.03, LONGEST_SECONDS]) * chance.random()
    deadline = clock.monotonic() + seconds
    told = b""
    killed = False
    while True:
        ready, _, _ = select.select(
            [pipe], [], [], None if killed else max(0.0, deadline - clock.monotonic())
        )
        if not ready:
            os.kill(child, signal.SIGKILL)
            killed = True
            continue
        some = os.read(pipe, 1 << 16)
        if not some:
            break
        told += some
    os.close(pipe)
    _, status = os.waitpid(child, 0)
    return told, os.waitstatus_to_exitcode(status)


def _read(told: bytes) -> tuple[list[list[Changed]], int]:
    steps: list[list[Changed]] = []
    acknowledged = 0
    for line in told.decode().split("\n")[:-1]:
        kind, what = json.loads(line)
        if kind == "step":
            steps.append(what)
        else:
            acknowledged = what
    return steps, acknowledged


def _look(path: str) -> tuple[Content, list[str]]:
    try:
        with holdfast.open(path, sync_seconds=None) as hold:
            problems = hold.check()
            hold.dict("values")
            hold.dict("fields", merge="fields")
            content = {name: hold.dict(name).copy() for name in NAMES}
            problems += [
                f"{name} has the length {len(hold.dict(name))} and {len(content[name])} entries"
                for name in NAMES
                if len(hold.dict(name)) != len(content[name])
            ]
            hold.fold()
            folded = {name: hold.dict(name).copy() for name in NAMES}
            if _ordered(folded) != _ordered(content):
                problems.append(f"a fold changed the content from {content} to {folded}")
            problems += hold.check()
            return content, problems
    except HoldfastError as error:
        return {name: {} for name in NAMES}, [f"it can't be opened: {error!r}"]


def _ordered(content: Content) -> str:
    """A fingerprint that tells the order of keys too, but not of the fields in a value."""
    return json.dumps([[list(content[name]), content[name]] for name in NAMES], sort_keys=True)


def _difference(
    start: Content, steps: list[list[Changed]], acknowledged: int, content: Content
) -> str | None:
    """None if `content` is the state after a step that may have been the last one; else what is wrong."""
    wanted = _ordered(content)
    state = {name: dict(start[name]) for name in NAMES}
    expected = None
    for number, changes in enumerate([[], *steps]):
        for name, key, *value in changes:
            if value:
                state[name][key] = value[0]
            else:
                del state[name][key]
        if number >= acknowledged:
            if _ordered(state) == wanted:
                return None
            expected = expected or {name: dict(state[name]) for name in NAMES}
    assert expected is not None
    return (
        f"not the state after any step from {acknowledged} to {len(steps)}: "
        + "; ".join(
            _tell_difference(name, expected[name], content[name])
            for name in NAMES
            if expected[name] != content[name]
        )
        + _tell_order(expected, content)
    )


def _tell_difference(name: str, expected: dict[str, Any], found: dict[str, Any]) -> str:
    none = "nothing"
    keys = [key for key in {**expected, **found} if expected.get(key, none) != found.get(key, none)]
    return ", ".join(
        f"{name}[{k!r}] is {found.get(k, none)!r} and was {expected.get(k, none)!r}" for k in keys
    )


def _tell_order(expected: Content, found: Content) -> str:
    wrong = [
        name for name in NAMES if expected[name] == found[name] and list(expected[name]) != list(found[name])
    ]
    return "".join(
        f"; the order of {name} is {list(found[name])} and was {list(expected[name])}" for name in wrong
    )


def run_rounds(place: Path, rounds: int, seed: int) -> Iterator[Round]:
    """Lives that end at random instants, several on one file before the next begins with an empty one."""
    content: Content = {name: {} for name in NAMES}
    path = place / "none.hold"
    for number in range(rounds):
        if number % 8 == 0:
            path = place / f"{seed}-{number}.hold"
            content = {name: {} for name in NAMES}
        done, content = run_round(str(path), seed * 1_000_003 + number, content)
        yield done
        if done.problems:
            content = {name: {} for name in NAMES}
            path = place / f"{seed}-{number}-anew.hold"


def run_statements(place: Path, seed: int, each: int = 1) -> Iterator[Round]:
    """One life again and again, which ends before and after each statement (or each `each`th) in turn."""
    kill_at = 2
    while True:
        path = place / f"statement-{seed}-{kill_at}.hold"
        done, _ = run_round(str(path), seed, {name: {} for name in NAMES}, kill_at)
        yield done
        if done.ended:
            return
        kill_at += each
        for leftover in place.glob(path.name + "*"):
            leftover.unlink()


def main(arguments: list[str] | None = None) -> int:
    """Run rounds and tell what is wrong; the exit code is 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.testing.faults")
    parser.add_argument("place", type=Path, help="a directory for the files")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--statements", type=int, metavar="EACH", help="kill at each EACHth statement instead"
    )
    given = parser.parse_args(arguments)
    shrink()
    if given.statements:
        rounds = run_statements(given.place, given.seed, given.statements)
    else:
        rounds = run_rounds(given.place, given.rounds, given.seed)
    count = steps = failed = 0
    for done in rounds:
        count, steps = count + 1, steps + done.steps
        if done.problems:
            failed += 1
            print(
                f"seed {done.seed}, after {done.acknowledged} of {done.steps} steps:",
                *done.problems,
                sep="\n  ",
            )
    print(f"{count} lives, {steps} steps, {failed} with problems")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
