"""Kill the writers of a hold with SIGKILL, and see that it lost nothing that was acknowledged.

    report = kills.kill_rounds("k.hold", seed=7, rounds=40)
    assert report.problems == []

Children work at random on one hold and tell the parent, through a pipe, each change before they make it, and again
when it is acknowledged: after `sync()`, or when an operation of a shared hold or a transaction returned. All
changes of a key are increments, so what is found must lie between what was acknowledged and what was tried.
A seed fixes what is done and when the kill comes, though not how far the child is by then.
"""

import os
import random  # a seed must give the same rounds again
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from holdfast import clock
from holdfast import hold as holdfast
from holdfast.engine.connection import Database

KEYS = 12
PAIRED = ("left", "right")
COUNTED = ("records", "numbers", "tasks", *PAIRED)
SHORTEST_LIFE, LONGEST_LIFE = 0.0002, 0.25  # seconds from the first statement of a child to its kill
PATIENCE = 60.0  # seconds after which a child that says nothing is hung
Tell = Callable[[str], None]


@dataclass
class Report:
    """What the kills showed: `problems` says what was lost or broken; `acknowledged` how many changes were not."""

    seed: int
    kills: int = 0
    acknowledged: int = 0
    problems: list[str] = field(default_factory=list)


# -- the parent's books ---------------------------------------------------------------------------------------


class Ledger:
    """What children said, against what is in the hold."""

    def __init__(self) -> None:
        self.acknowledged: Counter[tuple[str, str]] = Counter()
        self.tried: Counter[tuple[str, str]] = Counter()
        self.passing: dict[str, str] = {}  # key -> "+" is there, "?" may be, "-" is not

    def take(self, line: str) -> None:
        """Note one line of a child."""
        sign, *words = line.split()
        if sign == "try":
            self.tried[words[0], words[1]] += 1
        elif sign == "done":
            self.acknowledged[words[0], words[1]] += 1
        elif sign in "+?-":
            if sign != "+" or words[0] not in self.passing:
                self.passing[words[0]] = sign

    def compare(self, hold: holdfast.Hold) -> list[str]:
        """Problems of the hold; what is found becomes what must be there from now on."""
        kinds = hold.structures()
        problems = hold.check()
        for name in COUNTED:
            found = _counts(hold, kinds, name)
            for key in {key for known, key in self.tried if known == name} | set(found):
                problems += self._compare_one(name, key, found.get(key, 0))
        left, right = (_counts(hold, kinds, name) for name in PAIRED)
        if left != right:
            problems.append(f"a transaction is there in half: {left} in one structure, {right} in the other")
        return problems + self._compare_passing(hold, kinds)

    def _compare_one(self, name: str, key: str, found: int) -> list[str]:
        low, high = self.acknowledged[name, key], self.tried[name, key]
        self.acknowledged[name, key] = self.tried[name, key] = found
        if low <= found <= high:
            return []
        return [f"{name}[{key!r}] is {found}: {low} was acknowledged, {high} was tried"]

    def _compare_passing(self, hold: holdfast.Hold, kinds: dict[str, str]) -> list[str]:
        there = set(hold.dict("passing")) if "passing" in kinds else set()
        problems = []
        for key, state in self.passing.items():
            if state == "+" and key not in there:
                problems.append(f"passing[{key!r}] is lost, though it was acknowledged")
            if state == "-" and key in there:
                problems.append(f"passing[{key!r}] is back, though its deletion was acknowledged")
        self.passing = {key: "+" if key in there else "-" for key in {*self.passing, *there}}
        return problems


def _counts(hold: holdfast.Hold, kinds: dict[str, str], name: str) -> dict[str, int]:
    if name not in kinds:
        return {}
    if name == "tasks":
        return {key: task["_tries"] for key, task in hold.tracker(name).items()}
    return {key: value["n"] if name == "records" else value for key, value in hold.dict(name).items()}


# -- random work, killed at a random instant ------------------------------------------------------------------


class Child:
    """A process that works on a hold until it is killed."""

    def __init__(self, path: str, seed: str, shared: bool) -> None:
        self.seed = seed
        self.lines: list[str] = []
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.testing.kills", "work", path, seed, str(int(shared))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def read(self, seconds: float) -> bool:
        """Take in what it says within that time, once; False if it said nothing."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, seconds))
        return bool(ready) and self._take(os.read(self._process.stdout.fileno(), 1 << 16))

    def _take(self, text: bytes) -> bool:
        *lines, self._rest = (self._rest + text).split(b"\n")
        self.lines += [line.decode() for line in lines]
        return bool(text)

    def read_for(self, seconds: float) -> None:
        """Take in all that it says in that time."""
        until = clock.monotonic() + seconds
        while (left := until - clock.monotonic()) > 0 and self.read(left):
            pass

    def await_line(self, known: int, words: tuple[str, ...]) -> bool:
        """Wait for a line that begins with one of `words`, after the first `known` lines."""
        until = clock.monotonic() + PATIENCE
        while not any(line.startswith(words) for line in self.lines[known:]):
            if clock.monotonic() > until or not self.read(until - clock.monotonic()):
                return False
        return True

    def kill(self) -> list[str]:
        """Kill it, and take in the rest of what it said; its problems, if it ended before by itself."""
        assert self._process.stdout is not None and self._process.stderr is not None
        self._process.send_signal(signal.SIGKILL)
        with self._process.stdout as out, self._process.stderr as errors:
            while self._take(os.read(out.fileno(), 1 << 16)):
                pass
            said = errors.read().decode(errors="replace")
        code = self._process.wait()
        return [] if code == -signal.SIGKILL else [f"child {self.seed} ended with {code}: {said[-2000:]}"]


def kill_rounds(
    path: str, *, seed: int, rounds: int, progress: Callable[[int], None] | None = None
) -> Report:
    """Work on the hold at `path` and be killed, `rounds` times; every other round is shared by two processes.

    Stops at the first round that shows a problem, and leaves the hold as it is then.
    """
    report, ledger = Report(seed), Ledger()
    for number in range(rounds):
        dice = random.Random(f"{seed}/{number}")
        problems = _kill_round(path, f"{seed}/{number}", number % 2 == 1, dice, ledger, report)
        readonly = ledger.acknowledged.total() > 0 and dice.random() < 0.5  # a reader can't repair anything
        with holdfast.open(path, readonly=readonly) as hold:
            problems += ledger.compare(hold)
        report.acknowledged = ledger.acknowledged.total()  # what was found counts as acknowledged since
        if problems:
            report.problems = [f"round {number} of seed {seed}: {problem}" for problem in problems]
            break
        if progress is not None:
            progress(number + 1)
    return report


def _kill_round(
    path: str, seed: str, shared: bool, dice: random.Random, ledger: Ledger, report: Report
) -> list[str]:
    children = [Child(path, f"{seed}/{who}", shared) for who in range(2 if shared else 1)]
    problems: list[str] = []
    for child in children:
        if not child.await_line(0, ("go",)):
            problems.append(f"child {child.seed} did not begin")
    while children:
        life = SHORTEST_LIFE * (LONGEST_LIFE / SHORTEST_LIFE) ** dice.random()
        children[0].read_for(life)
        problems += children[0].kill()
        report.kills += 1
        for line in children[0].lines:
            ledger.take(line)
        del children[0]
        for survivor in children:
            while survivor.read(0):
                pass
            if not survivor.await_line(len(survivor.lines), ("done", "+", "-")):
                problems.append(f"child {survivor.seed} hangs after the other was killed")
    return problems


class Worker:
    """The child's side: random changes, each told before and after."""

    def __init__(self, path: str, seed: str, shared: bool, tell: Tell) -> None:
        self._path, self._seed, self._shared, self._tell = path, seed, shared, tell
        self._dice = random.Random(seed)
        self._waiting: list[str] = []  # what to tell after the next sync
        self._passing: list[str] = []
        self._serial = 0
        self._open()

    def _open(self) -> None:
        dice = self._dice
        self._hold = hold = holdfast.open(
            self._path,
            shared=self._shared,
            sync_changes=dice.choice([3, 50, 1000]),
            sync_seconds=dice.choice([0.01, 1.0]),
            cache_bytes=dice.choice([2_000, 64_000_000]),
        )
        self._dicts = {name: hold.dict(name) for name in ("records", "numbers", "passing", *PAIRED)}
        self._tasks = hold.tracker("tasks")
        with hold.transaction():
            for number in range(KEYS):
                self._dicts["records"].setdefault(f"k{number}", {"n": 0, "log": []})
                self._dicts["numbers"].setdefault(f"k{number}", 0)
                self._tasks.add_if_absent(f"k{number}")
                for name in PAIRED:
                    self._dicts[name].setdefault(f"k{number}", 0)

    def run(self) -> None:
        """Work without end."""
        steps: list[tuple[Callable[[], None], int]] = [
            (self._whole, 20), (self._nested, 20), (self._number, 20), (self._task, 10), (self._add, 8),
            (self._delete, 8), (self._pair, 10), (self._many, 4), (self._sync, 6), (self._fold, 2),
            (self._again, 1),
        ]  # fmt: skip
        works, weights = [work for work, _ in steps], [weight for _, weight in steps]
        while True:
            self._dice.choices(works, weights)[0]()

    def _key(self) -> str:
        return f"k{self._dice.randrange(KEYS)}"

    def _acknowledge(self, line: str, at_once: bool = False) -> None:
        if self._shared or at_once:
            self._tell(line)
        else:
            self._waiting.append(line)

    def _saved(self) -> None:
        if self._waiting:
            self._tell("\n".join(self._waiting))
            self._waiting.clear()

    def _count(self, name: str, change: Callable[[str], None]) -> None:
        key = self._key()
        self._tell(f"try {name} {key}")
        change(key)
        self._acknowledge(f"done {name} {key}")

    def _whole(self) -> None:
        records = self._dicts["records"]

        def change(key: str) -> None:
            with records.locked():
                record = {"n": records[key]["n"] + 1, "log": ["x" * self._dice.randrange(200)]}
                records[key] = record

        self._count("records", change)

    def _nested(self) -> None:
        records = self._dicts["records"]

        def change(key: str) -> None:
            if self._shared:
                records.set[key]["n"] += 1
                records.set[key]["log"].append(self._serial)
            else:
                records[key]["n"] += 1
                records[key]["log"].append(self._serial)

        self._count("records", change)

    def _number(self) -> None:
        def change(key: str) -> None:
            self._dicts["numbers"].set[key] += 1

        self._count("numbers", change)

    def _task(self) -> None:
        self._count("tasks", self._tasks.increment_tries)

    def _add(self) -> None:
        key = f"{self._seed}/{self._serial}"
        self._serial += 1
        self._dicts["passing"][key] = {"of": self._seed}
        self._passing.append(key)
        self._acknowledge(f"+ {key}")

    def _delete(self) -> None:
        if self._passing:
            key = self._passing.pop(self._dice.randrange(len(self._passing)))
            self._tell(f"? {key}")
            del self._dicts["passing"][key]
            self._acknowledge(f"- {key}")

    def _pair(self) -> None:
        key = self._key()
        self._tell("\n".join(f"try {name} {key}" for name in PAIRED))
        with self._hold.transaction():
            for name in PAIRED:
                self._dicts[name][key] += 1
        self._saved()  # a transaction writes what was changed before it, too
        for name in PAIRED:
            self._acknowledge(f"done {name} {key}", at_once=True)

    def _many(self) -> None:
        numbers = self._dicts["numbers"]
        self._tell("\n".join(f"try numbers k{number}" for number in range(KEYS)))
        with numbers.locked():
            numbers.update({f"k{number}": numbers[f"k{number}"] + 1 for number in range(KEYS)})
        self._acknowledge("\n".join(f"done numbers k{number}" for number in range(KEYS)))

    def _sync(self) -> None:
        self._hold.sync()
        self._saved()

    def _fold(self) -> None:
        self._hold.fold()
        self._saved()

    def _again(self) -> None:
        self._hold.close()
        self._saved()
        self._open()


# -- a kill at every statement --------------------------------------------------------------------------------


def kill_at_each_statement(directory: str, most: int = 1_000) -> Report:
    """Run a small fixed life of a hold again and again, killed before its 1st, 2nd, 3rd... writing statement.

    Forks, so call it where no other thread runs; the command line does: `python -m holdfast.testing.kills each DIR`.
    """
    report = Report(0)
    for countdown in range(1, most + 1):
        path = os.path.join(directory, f"{countdown}.hold")
        told, status = _in_fork(lambda tell, path=path, n=countdown: _count_down(path, n, tell))  # type: ignore[misc]
        found, ended = _in_fork(lambda tell, path=path, told=told: _compare_told(path, told, tell))  # type: ignore[misc]
        if ended:
            found.append("the comparison did not end: the error is on stderr")
        report.problems += [f"killed at statement {countdown}: {problem}" for problem in found]
        report.acknowledged += sum(line.startswith("done") for line in told)
        if status != signal.SIGKILL:
            if status:
                report.problems.append(f"countdown {countdown} ended with status {status}")
            break
        report.kills += 1
    return report


def _in_fork(work: Callable[[Tell], None]) -> tuple[list[str], int]:
    """What `work` told, line by line, and the wait status of the process that it ran in."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(lambda line: _write_all(writing, line))
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text.decode().split("\n")[:-1], status


def _count_down(path: str, countdown: int, tell: Tell) -> None:
    left = countdown

    def killing(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*args)

        return run

    for name in ("run", "many", "begin", "commit"):
        setattr(Database, name, killing(getattr(Database, name)))
    small_life(path, tell)


def small_life(path: str, tell: Tell) -> None:
    """Load, sync, overwrite, delete, fold, a transaction, a tracker, the same shared, close."""
    for shared in (False, True):
        with holdfast.open(path, shared=shared, sync_seconds=None) as hold:
            numbers, records = hold.dict("numbers"), hold.dict("records")
            tasks, passing = hold.tracker("tasks"), hold.dict("passing")
            for sign in ("try", "done"):
                if sign == "try":
                    tell("\n".join(f"try numbers k{n}" for n in range(KEYS)))
                    numbers.update({f"k{n}": numbers.get(f"k{n}", 0) + 1 for n in range(KEYS)})
                    tell("try records k0\ntry tasks k0")
                    records["k0"] = {"n": records.get("k0", {"n": 0})["n"] + 1}
                    tasks.add_if_absent("k0")
                    tasks.increment_tries("k0")
                    hold.sync()
                else:
                    tell("\n".join(f"done numbers k{n}" for n in range(KEYS)))
                    tell("done records k0\ndone tasks k0")
            _change_again(hold, passing, tell)
            hold.fold()
            _count_pair(hold, tell)
            tell("try records k0")
            records["k0"]["n"] += 1
        tell("done records k0")


def _change_again(hold: holdfast.Hold, passing: Any, tell: Tell) -> None:
    passing["stays"], passing["goes"] = 1, 2
    hold.sync()
    tell("+ stays\n? goes\ntry numbers k1")
    del passing["goes"]
    hold.dict("numbers").set["k1"] += 1
    hold.sync()
    tell("- goes\ndone numbers k1")


def _count_pair(hold: holdfast.Hold, tell: Tell) -> None:
    left, right = (hold.dict(name) for name in PAIRED)
    tell("try left k0\ntry right k0")
    with hold.transaction():
        left["k0"] = left.get("k0", 0) + 1
        right["k0"] = right.get("k0", 0) + 1
    tell("done left k0\ndone right k0")


def _compare_told(path: str, told: list[str], tell: Tell) -> None:
    ledger = Ledger()
    for line in told:
        ledger.take(line)
    with holdfast.open(path) as hold:
        problems = ledger.compare(hold)
    for problem in problems:
        tell(problem.replace("\n", " "))


# -- as a program ---------------------------------------------------------------------------------------------


def _write_all(descriptor: int, line: str) -> None:
    rest = memoryview(line.encode() + b"\n")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def main(arguments: list[str]) -> int:
    """`work PATH SEED SHARED` is a child; `each DIR` kills at each statement; `rounds N [SEED]` is the long run."""
    what, *rest = arguments
    if what == "work":
        path, seed, shared = rest
        os.write(1, b"go\n")
        Worker(path, seed, shared == "1", lambda line: _write_all(1, line)).run()
    if what == "each":
        report = kill_at_each_statement(rest[0])
    else:
        seed_given = int(rest[1]) if len(rest) > 1 else clock.new_node() & 0xFFFFFFFF
        directory = tempfile.mkdtemp(prefix="holdfast-kill-")
        report = kill_rounds(os.path.join(directory, "k.hold"), seed=seed_given, rounds=int(rest[0]))
        if not report.problems:
            shutil.rmtree(directory)
    _write_all(1, f"seed {report.seed}: {report.kills} kills, {report.acknowledged} changes acknowledged")
    for problem in report.problems:
        _write_all(1, problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
