"""Sleep until a word of shared memory changes, and wake those who sleep: Linux's futex.

Elsewhere `AVAILABLE` is False, and who waits must poll. A sleep is always bounded, because a process that is
killed wakes nobody.
"""

import ctypes
import errno
import platform
import sys
import time

_NUMBERS = {
    "x86_64": 202,
    "aarch64": 98,
    "riscv64": 98,
    "loongarch64": 98,
    "ppc64le": 221,
    "i686": 240,
    "armv7l": 240,
}
_NUMBER = _NUMBERS.get(platform.machine())
_WAIT, _WAKE = 0, 1

AVAILABLE = sys.platform == "linux" and _NUMBER is not None and sys.byteorder == "little"


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


if AVAILABLE:
    # CDLL, not PyDLL: the interpreter's lock is free while the call sleeps.
    _syscall = ctypes.CDLL(None, use_errno=True).syscall
    _syscall.restype = ctypes.c_long
    _syscall.argtypes = [
        ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32
    ]  # fmt: skip


def sleep_while(address: int, seen: int, seconds: float) -> None:
    """Sleep while the 32-bit word at `address` is `seen`, at most `seconds`; may wake for no reason.

    A signal ends it, so that KeyboardInterrupt comes through at once.
    """
    whole = int(seconds)
    limit = _Timespec(whole, int((seconds - whole) * 1e9))
    result = _syscall(_NUMBER, address, _WAIT, seen & 0xFFFFFFFF, ctypes.addressof(limit), None, 0)
    if result == -1 and ctypes.get_errno() not in (errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR):
        time.sleep(min(seconds, 0.005))  # a sandbox without futex: poll


def wake(address: int, most: int = 0x7FFFFFFF) -> None:
    """Wake up to `most` sleepers on the word at `address`, in this process and others."""
    _syscall(_NUMBER, address, _WAKE, most, None, None, 0)
