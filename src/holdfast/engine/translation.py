"""SQLite's errors and the system's, as ours: what happened, to what, what to do."""

import errno

import apsw

from holdfast.errors import (
    BusyError,
    ClosedError,
    ConflictError,
    CorruptError,
    HoldfastError,
    InvalidError,
    ReadOnlyError,
    UnavailableError,
)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)

_TRANSLATIONS: tuple[tuple[tuple[type[apsw.Error], ...], type[Exception], str], ...] = (
    (
        (apsw.BusyError, apsw.LockedError),
        BusyError,
        "{name} was locked by another program for {seconds:g} s: try again, or end the program that has it open",
    ),
    (
        (apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError),
        ReadOnlyError,
        "{name} can't be written ({error}): make the file and its directory writable, or open with readonly=True",
    ),
    (
        (apsw.CorruptError, apsw.NotADBError, apsw.FormatError),
        CorruptError,
        "{name} is damaged ({error}): run `holdfast check` on it, or restore a backup",
    ),
    (
        (apsw.CantOpenError, apsw.IOError, apsw.ProtocolError),
        UnavailableError,
        "{name} could not be read or written ({error}): see to the disk and try again; changes are kept in memory",
    ),
    ((apsw.ConnectionClosedError, apsw.CursorClosedError), ClosedError, "{name} was closed: open it again"),
    ((apsw.ConstraintError,), ConflictError, "{name} holds this already ({error})"),
    (
        (apsw.TooBigError,),
        InvalidError,
        "the value is too big for {name}, which holds up to 1 GB a value: split it",
    ),
    ((apsw.NoMemError,), MemoryError, "{name}: out of memory"),
)


def from_sqlite(error: apsw.Error, name: str, number: int, seconds: float) -> Exception:
    """Our error for one of SQLite's. `number` is the errno that came with it, `seconds` how long a lock was tried."""
    io = isinstance(error, (apsw.IOError, apsw.CantOpenError))
    if isinstance(error, apsw.FullError) or (io and number in NO_ROOM):
        return UnavailableError(
            f"the disk is full, so {name} was not written: free space and sync again; changes are kept in memory"
        )
    for kinds, ours, text in _TRANSLATIONS:
        if isinstance(error, kinds):
            return ours(text.format(name=name, error=error, seconds=seconds))
    return HoldfastError(f"{name}: SQLite refused ({error})")


def from_system(error: OSError, what: str) -> HoldfastError:
    """Our error for one of the system's, at writing `what`."""
    if error.errno in NO_ROOM:
        return UnavailableError(f"the disk is full, so {what} was not written: free space and try again")
    if error.errno in NO_RIGHT:
        return ReadOnlyError(f"{what} can't be written ({error.strerror}): make the place writable")
    return UnavailableError(f"{what} could not be written ({error.strerror}): see to it and try again")
