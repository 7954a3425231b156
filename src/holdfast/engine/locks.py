"""Advisory locks on single bytes of a file, which the kernel frees when their holder dies.

On Linux they belong to the open descriptor (F_OFD_SETLK): two descriptors of one process exclude each other, and
closing another descriptor of the same file frees nothing. Elsewhere they are POSIX locks, which belong to the
process: there a process opens a side file once, and closes it last.
"""

import errno
import fcntl
import os
import struct

WRITER, TURN, PRESENCE, FILLING = range(4)
"""What each byte of a hold's side file stands for."""

OWNED_BY_DESCRIPTOR = hasattr(fcntl, "F_OFD_SETLK")


def _flock(kind: int, byte: int) -> bytes:
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, byte, 1, 0)


_BYTES = (WRITER, TURN, PRESENCE, FILLING)
_EXCLUSIVE = [_flock(fcntl.F_WRLCK, byte) for byte in _BYTES]
_SHARED = [_flock(fcntl.F_RDLCK, byte) for byte in _BYTES]
_FREE = [_flock(fcntl.F_UNLCK, byte) for byte in _BYTES]
_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)

if OWNED_BY_DESCRIPTOR:
    _SET = fcntl.F_OFD_SETLK

    def take(fd: int, byte: int) -> bool:
        """Take the byte for this descriptor alone; False if another has it."""
        try:
            fcntl.fcntl(fd, _SET, _EXCLUSIVE[byte])
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                return False
            raise
        return True

    def share(fd: int, byte: int) -> bool:
        """Take the byte together with others who share it, or go down to that; False if one has it alone."""
        try:
            fcntl.fcntl(fd, _SET, _SHARED[byte])
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                return False
            raise
        return True

    def free(fd: int, byte: int) -> None:
        """Give the byte back; harmless if it was not held."""
        fcntl.fcntl(fd, _SET, _FREE[byte])

else:

    def _try(fd: int, how: int, byte: int) -> bool:
        try:
            fcntl.lockf(fd, how | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                return False
            raise
        return True

    def take(fd: int, byte: int) -> bool:
        """Take the byte for this process alone; False if another has it."""
        return _try(fd, fcntl.LOCK_EX, byte)

    def share(fd: int, byte: int) -> bool:
        """Take the byte together with others who share it, or go down to that; False if one has it alone."""
        return _try(fd, fcntl.LOCK_SH, byte)

    def free(fd: int, byte: int) -> None:
        """Give the byte back; harmless if it was not held."""
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, byte)
