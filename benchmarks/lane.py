"""A lane: one contestant in a process of its own, steered from here call by call.

A process each, because memory, caches and the folding that a contestant leaves for an idle moment would
otherwise be felt, and paid, by its neighbours.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, Self

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_SECONDS = 1800.0


class LaneError(RuntimeError):
    """A contestant failed, died or did not answer; its own traceback is in the message."""


def _serve(pipe: Connection, factory: Any, arguments: tuple[Any, ...]) -> None:
    try:
        contestant = factory(*arguments)
        pipe.send((True, None))
        while (call := pipe.recv()) is not None:
            step, given = call
            pipe.send((True, getattr(contestant, step)(*given)))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception:  # noqa: BLE001 - whatever it is: shown to the person by the process that asked
        pipe.send((False, traceback.format_exc()))


class Lane:
    """`factory(*arguments)` made in a fresh process; `call` runs one of its methods there and gives the answer."""

    def __init__(self, factory: Any, *arguments: Any) -> None:
        self._title = getattr(factory, "__name__", repr(factory))
        self._pipe, far = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(far, factory, arguments), daemon=True)
        self._process.start()
        far.close()
        self.answer()

    def begin(self, step: str, *given: Any) -> None:
        """Start `step` without waiting for it; `answer` gives what it returned."""
        self._pipe.send((step, given))

    def answer(self) -> Any:
        """What the step that was begun last gave. Raises LaneError when it failed or did not end in time."""
        if not self._pipe.poll(PATIENCE_SECONDS):
            self.kill()
            raise LaneError(f"{self._title} gave no answer for {PATIENCE_SECONDS:.0f} s and was killed")
        try:
            done, result = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise LaneError(f"{self._title} died with exit code {self._process.exitcode}") from None
        if not done:
            self.kill()
            raise LaneError(f"{self._title} failed:\n{result}")
        return result

    def call(self, step: str, *given: Any) -> Any:
        self.begin(step, *given)
        return self.answer()

    def call_to_death(self, step: str, *given: Any) -> None:
        """Run a step whose last act is to kill its own process with SIGKILL."""
        self.begin(step, *given)
        self._pipe.poll(PATIENCE_SECONDS)
        try:
            done, result = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return
        raise LaneError(f"{self._title} should have died in {step}, but gave {done}, {result}")

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Let the process end by itself, so that whatever it does at its exit is done."""
        try:
            self._pipe.send(None)
        except OSError:
            pass  # it has ended already
        self._process.join(PATIENCE_SECONDS)
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def die() -> None:
    """End this process at once, as a power cut to it alone: nothing of its own runs any more."""
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def memory_bytes(what: str = "VmRSS") -> int:
    """Resident memory of this process now (`VmRSS`), or the most that it ever was (`VmHWM`)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith(what):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    import resource  # no /proc here: the highest, which is the cautious answer for both

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
