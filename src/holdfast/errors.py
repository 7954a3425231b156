"""All errors that reach a caller, grouped by what the caller does next.

HoldfastError
├── ConflictError       somebody else changed it first: read again, decide, retry
├── UnavailableError    the disk, server or remote did not answer or has no room: local state is kept, retry later
├── BusyError           the writer's lock was not free in time: retry, or wait longer
├── MissingError        no such key, structure or file
├── InvalidError        the argument, value or option is wrong: correct the call
├── ClosedError         the hold, structure or transaction is no longer open: open it again
├── CorruptError        the file is damaged or not ours: restore a backup, or run `holdfast check`
└── ReadOnlyError       writing was refused: open for writing, or make the place writable

The builtin parents (KeyError, ValueError, …) let code that knows nothing of Holdfast handle them.
"""


class HoldfastError(Exception):
    """The root of every error that Holdfast raises by itself."""


class ConflictError(HoldfastError):
    """Somebody else changed it first, so this change was not made: read again and decide."""


class UnavailableError(HoldfastError, ConnectionError):
    """What is needed could not be reached or has no room; nothing local was lost: try again later."""


class BusyError(HoldfastError, TimeoutError):
    """The writer's lock was not free within the time given: try again, or wait longer."""


class MissingError(HoldfastError, KeyError):
    """There is no such key, structure or file."""

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return str(self.args[0]) if self.args else ""


class InvalidError(HoldfastError, ValueError):
    """The argument, value or option is wrong; nothing was changed: correct the call."""


class ClosedError(HoldfastError):
    """The hold (or transaction) that this belongs to is no longer open here: open it again."""


class CorruptError(HoldfastError):
    """The file is damaged, of a newer format, or not a hold: it was left as it is."""


class ReadOnlyError(HoldfastError):
    """Writing was refused: the hold was opened read-only, or the place can't be written."""
