"""The driver: starts the crawl, kills a worker, kills the whole program, starts it again, and looks on.

It never takes part: all that it knows of the crawl it reads from the hold, as any other program could.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from holdfast import clock
from holdfast.cli.demo.crawl import Plan
from holdfast.cli.demo.show import Stage, State
from holdfast.errors import HoldfastError, UnavailableError
from holdfast.hold import Hold

LOOK_SECONDS = 0.05
MOST_SECONDS = 120.0  # for one act; a machine that needs longer is in trouble
LEAST_KNOWN = 60  # modules, before a part of them means anything
FIRST_KILL, SECOND_KILL = 0.5, 0.75  # parts of the known modules that are done by then


class Loss(NamedTuple):
    """A task that was under way when its worker was killed."""

    task: str
    worker: str


class Driver:
    """One performance. `losses` is what the kills interrupted."""

    def __init__(self, hold: Hold, plan: Plan, stage: Stage) -> None:
        self.hold = hold
        self.tasks = hold.tracker("tasks")
        self.workers = hold.dict("workers")
        self.losses: list[Loss] = []
        self._plan = plan
        self._stage = stage

    def perform(self) -> None:
        """From nothing to a complete crawl, through two kills."""
        with self._running(self._plan) as program:
            self._stage.started(program.pid, self._plan)
            self._watch(program, lambda state: _is_past(state, FIRST_KILL))
            if self._kill_worker(program):
                self._kill_program(program)
        again = self._plan._replace(run=2)
        self._stage.resumed(self._state(), self.losses)
        with self._running(again) as program:
            self._watch(program, lambda state: False)
            if program.wait() != 0:
                raise HoldfastError(
                    f"the crawl ended with exit code {program.returncode}, which it never should"
                )
        self._stage.finished(self._state())

    # -- the program ------------------------------------------------------------------------------------------

    @contextmanager
    def _running(self, plan: Plan) -> Iterator["subprocess.Popen[bytes]"]:
        """The program in a group of its own, so that one signal reaches it and its workers; none is left behind."""
        command = [sys.executable, "-m", "holdfast.cli.demo.crawl", *map(str, plan)]
        program = subprocess.Popen(command, start_new_session=True)
        try:
            yield program
        finally:
            _kill_group(program)

    def _watch(self, program: "subprocess.Popen[bytes]", until: Callable[[State], bool]) -> State:
        """Show the crawl until the condition holds or the program has ended."""
        deadline = clock.monotonic() + MOST_SECONDS
        with self.hold.watch("tasks") as changes, self._stage.live():
            while True:
                state = self._state()
                self._stage.show(state)
                if until(state) or program.poll() is not None:
                    return state
                if clock.monotonic() > deadline:
                    raise UnavailableError(
                        f"the crawl is not as far as it should be after {MOST_SECONDS:.0f} s, with {state.done} of "
                        f"{state.known} modules done: is this machine busy? Try again"
                    )
                changes.poll(LOOK_SECONDS)

    def _state(self) -> State:
        tally = self.tasks.tally()
        leases = {key: task["_lease"]["worker"] for key, task in self.tasks.todo_items() if "_lease" in task}
        pids = {name: worker["pid"] for name, worker in self.workers.items()}
        return State(tally.done, tally.total, leases, pids, frozenset(loss.worker for loss in self.losses))

    # -- killing ----------------------------------------------------------------------------------------------

    def _kill_worker(self, program: "subprocess.Popen[bytes]") -> bool:
        loss, state = self._strike(program)
        if loss is None:
            self._stage.too_late()
            return False
        self.losses.append(loss)
        killed_at = clock.monotonic()
        self._stage.worker_killed(loss.task, loss.worker, state)

        def is_done_by_another(state: State) -> bool:
            return self.tasks.done(loss.task)

        self._watch(program, is_done_by_another)
        if self.tasks.done(loss.task):
            task = self.tasks[loss.task]
            self._stage.task_came_back(loss.task, task["worker"], clock.monotonic() - killed_at)
        return True

    def _strike(self, program: "subprocess.Popen[bytes]") -> tuple[Loss | None, State]:
        """Kill a worker in the middle of a task: halt it, see that it has one, kill it; else let it go and retry."""
        while True:
            state = self._state()
            if program.poll() is not None:
                return None, state
            for task, worker in state.leases.items():
                pid = state.pids[worker]
                os.kill(pid, signal.SIGSTOP)
                stopped = self._state()
                if stopped.leases.get(task) == worker:
                    os.kill(pid, signal.SIGKILL)
                    return Loss(task, worker), stopped
                os.kill(pid, signal.SIGCONT)

    def _kill_program(self, program: "subprocess.Popen[bytes]") -> None:
        self._watch(program, lambda state: _is_past(state, SECOND_KILL))
        if program.poll() is not None:
            self._stage.too_late()
            return
        _kill_group(program)
        state = self._state()
        self.losses += [Loss(task, worker) for task, worker in state.leases.items()]
        self._stage.program_killed(program.pid, self._plan, state)


def _is_past(state: State, part: float) -> bool:
    return state.known >= LEAST_KNOWN and state.done >= part * state.known and len(state.leases) > 0


def _kill_group(program: "subprocess.Popen[bytes]") -> None:
    """SIGKILL for the program and its workers: nobody gets to write a last word."""
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of them had ended
    program.wait()
