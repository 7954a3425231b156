"""The program that is killed: four workers over one hold. `python -m holdfast.cli.demo.crawl HOLD …` runs it.

Started again, it goes on where it was: nothing but the file remembers. What it needs to know is in there too:

    tasks     tracker: a task a module, with the worker that finished it and how often it was finished
    modules   dict: what was found in each
    workers   dict: the process id of each worker, by run
"""

import multiprocessing
import os
import sys
import time
from typing import NamedTuple

from holdfast import hold as holds
from holdfast.cli.demo.scan import scan
from holdfast.errors import ConflictError
from holdfast.hold import Hold
from holdfast.structures.tracker import Task, Tracker


class Plan(NamedTuple):
    """One run of the program."""

    path: str
    run: int
    workers: int
    lease_seconds: float
    pace_seconds: float  # what a worker waits at each module, as one that crawls the web would


def crawl(plan: Plan) -> int:
    """Run the workers to the end; the exit code. A worker that dies is not replaced: the others do its work."""
    context = multiprocessing.get_context("spawn")
    names = [f"{plan.run}.{number}" for number in range(1, plan.workers + 1)]
    workers = [context.Process(target=work, args=(plan, name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 0 if any(worker.exitcode == 0 for worker in workers) else 1


def work(plan: Plan, me: str) -> None:
    """One worker: claim a module, read it, note what was found, until all is done."""
    parent = os.getppid()
    with holds.open(plan.path, shared=True) as hold:
        tasks = hold.tracker("tasks")
        hold.dict("workers")[me] = {"pid": os.getpid(), "run": plan.run}
        with hold.watch("tasks") as changes:
            while os.getppid() == parent:
                claimed = tasks.claim(me, plan.lease_seconds)
                if claimed:
                    _read_module(hold, tasks, claimed[0], plan.pace_seconds)
                elif _is_finished(tasks):
                    return
                else:
                    changes.poll(
                        plan.lease_seconds / 4
                    )  # until a task is added, or a dead worker's lease ends


def _read_module(hold: Hold, tasks: Tracker, task: Task, pace_seconds: float) -> None:
    found = scan(task.key)
    time.sleep(pace_seconds)
    try:
        with hold.transaction():  # the result, the new tasks, and that this one is done: all of it or nothing
            hold.dict("modules")[task.key] = found
            tasks.add_many_if_absent(found["imports"])
            tasks.finish(task, worker=task.worker, finished=tasks[task.key].get("finished", 0) + 1)
    except ConflictError:
        pass  # we were too slow and the lease ended: whoever has the task now does it


def _is_finished(tasks: Tracker) -> bool:
    tally = tasks.tally()
    return tally.done == tally.total


if __name__ == "__main__":
    path, run, workers, lease_seconds, pace_seconds = sys.argv[1:]
    sys.exit(crawl(Plan(path, int(run), int(workers), float(lease_seconds), float(pace_seconds))))
