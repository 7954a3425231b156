"""What must happen when the process forks, exits or is told to end: one registry for the process's life.

Whoever holds state that a fork would tear, or that an exit would lose, registers itself. The order is that of
registration for coming to be (after a fork) and the reverse for going (before a fork, at exit): what stands on
another was registered after it, and goes first.

SIGTERM (and SIGINT where it would end the process at once) is chained: everybody's `at_exit`, then the handler
that was there before, or the signal's default action, so that the exit status is the right one. A signal that
comes while the main thread is inside a registered object's write waits until that is done.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Protocol, TypeVar

RETRY_SECONDS = 0.005


class Member(Protocol):
    """What can be registered. Two more methods are called if they are there: `after_fork_parent()`, which undoes
    `before_fork`, and `busy() -> bool`, which defers a signal."""

    def before_fork(self) -> None:
        """Come to rest: no other thread may be inside when this returns, until after the fork."""

    def after_fork_child(self) -> None:
        """Forget what belongs to the parent. No other thread exists."""

    def at_exit(self) -> None:
        """Make safe what would be lost. May be called more than once, and life may go on."""


_members: dict[int, "weakref.ref[Member]"] = {}
_whole: set[CodeType] = set()
_deferred: list[int] = []
_previous: dict[int, Any] = {}
_hooked = False
_multiprocessing_hooked = False

F = TypeVar("F", bound=Callable[..., Any])


def whole(function: F) -> F:
    """Mark a function that a signal must not cut in two: while the main thread is inside, SIGTERM waits.

    Costs nothing per call: the handler looks for the function's code in the stack.
    """
    _whole.add(function.__code__)
    return function


def register(member: Member) -> None:
    """Have `member` told of forks, exit and signals for as long as it lives."""
    _hook_once()
    key = id(member)

    def gone(reference: "weakref.ref[Member]") -> None:
        if _members.get(key) is reference:
            del _members[key]

    _members[key] = weakref.ref(member, gone)
    _install_signals()


def forget(member: Member) -> None:
    """Undo `register`. Our signal handlers go with the last member."""
    _members.pop(id(member), None)
    if not _members:
        _remove_signals()


def release_deferred() -> None:
    """Deliver the signals that came meanwhile; to be called by a member that is no longer `busy()`."""
    if _deferred:
        again = list(dict.fromkeys(_deferred))
        _deferred.clear()
        for signum in again:
            os.kill(os.getpid(), signum)


def _alive() -> list[Member]:
    found = (reference() for reference in list(_members.values()))
    return [member for member in found if member is not None]


# -- fork -----------------------------------------------------------------------------------------------------


def _hook_once() -> None:
    global _hooked
    if _hooked:
        return
    _hooked = True
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_parent, after_in_child=_after_fork_child
    )
    atexit.register(_at_exit)
    _hook_multiprocessing()


def _before_fork() -> None:
    _hook_multiprocessing()
    for member in reversed(_alive()):
        _guarded(member.before_fork)


def _after_fork_parent() -> None:
    for member in _alive():
        undo = getattr(member, "after_fork_parent", None)
        if undo is not None:
            _guarded(undo)


def _after_fork_child() -> None:
    _deferred.clear()
    for member in _alive():
        _guarded(member.after_fork_child)


class _Marker:
    """Something that multiprocessing can refer to weakly."""


_marker = _Marker()


def _hook_multiprocessing() -> None:
    """Its children leave by os._exit, past atexit, but they run its own finalizers."""
    global _multiprocessing_hooked
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None or _multiprocessing_hooked:
        return
    _multiprocessing_hooked = True
    # A forked child first drops the finalizers that it inherited, and then runs these:
    util.register_after_fork(_marker, _finalize_with_multiprocessing)
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _finalize_with_multiprocessing(_marker)


def _finalize_with_multiprocessing(_: object) -> None:
    util: Any = sys.modules["multiprocessing.util"]
    util.Finalize(None, _at_exit, exitpriority=0)


# -- exit -----------------------------------------------------------------------------------------------------


def _at_exit() -> None:
    for member in reversed(_alive()):
        _guarded(member.at_exit)


def _guarded(step: Callable[[], None]) -> None:
    """One member's failure is told on stderr and must not cost the others their turn."""
    try:
        step()
    except Exception as error:  # noqa: BLE001 - told, not swallowed
        sys.excepthook(type(error), error, error.__traceback__)


# -- signals --------------------------------------------------------------------------------------------------


def _install_signals() -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows it there alone; the next registration in the main thread does it
    for signum in (signal.SIGTERM, signal.SIGINT):
        if signum in _previous:
            continue
        handler = signal.getsignal(signum)
        ours = handler is signal.SIG_DFL or (signum == signal.SIGTERM and callable(handler))
        if ours and handler is not _on_signal:
            with contextlib.suppress(ValueError):  # a subinterpreter
                signal.signal(signum, _on_signal)
                _previous[signum] = handler


def _remove_signals() -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # harmless: without members our handler only passes on
    for signum, handler in list(_previous.items()):
        if signal.getsignal(signum) is _on_signal:
            signal.signal(signum, handler)
        # Else somebody put theirs over ours. It may chain to ours, so what came before us is kept.
        if signal.getsignal(signum) is not _on_signal:
            _previous.pop(signum, None)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if _in_whole(frame):
        _try_again_soon(signum)
        return
    if any(_is_busy(member) for member in _alive()):
        _deferred.append(signum)
        return
    _at_exit()
    handler = _previous.get(signum, signal.SIG_DFL)
    if callable(handler):
        handler(signum, frame)
    elif handler is not signal.SIG_IGN:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def _is_busy(member: Member) -> bool:
    busy = getattr(member, "busy", None)
    return busy is not None and bool(busy())


def _in_whole(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _whole:
            return True
        frame = frame.f_back
    return False


def _try_again_soon(signum: int) -> None:
    """From a thread that lives for a moment: the main thread is in the middle of something short."""
    timer = threading.Timer(RETRY_SECONDS, os.kill, (os.getpid(), signum))
    timer.daemon = True
    timer.start()
