"""The command itself: its sub-commands, and what becomes of an error.

An error is one line on stderr and an exit code; a traceback is a fault of ours.
"""

import os
import sys
from typing import Any

import click

from holdfast.cli.changing import delete, edit, set_value
from holdfast.cli.checking import backup, check
from holdfast.cli.completing import completion
from holdfast.cli.demo.command import demo
from holdfast.cli.looking import get, inspect, ls
from holdfast.cli.moving import dump, import_files, load
from holdfast.errors import (
    BusyError,
    CorruptError,
    HoldfastError,
    InvalidError,
    MissingError,
    ReadOnlyError,
    UnavailableError,
)

EXIT_CODES: tuple[tuple[type[HoldfastError], int], ...] = (
    (InvalidError, 2),
    (MissingError, 3),
    (BusyError, 4),
    (UnavailableError, 4),
    (CorruptError, 5),
    (ReadOnlyError, 6),
)
INTERRUPTED = 130  # 128 + SIGINT, as shells say it …
PIPE_CLOSED = 141  # … and 128 + SIGPIPE

EPILOG = """\b
Exit codes
  0  done
  1  a problem was found, or somebody else's change is in the way
  2  a wrong option, argument or value
  3  no such file, structure or key
  4  busy, or out of reach: try again
  5  the file is damaged, of a newer format, or not a hold
  6  writing was refused

\b
Completion, for bash (zsh and fish alike):
  eval "$(holdfast completion bash)"
"""


class Command(click.Group):
    """All sub-commands, and the one place where errors become exit codes."""

    def invoke(self, context: click.Context) -> Any:
        try:
            result = super().invoke(context)
            sys.stdout.flush()
        except HoldfastError as error:
            click.echo(f"holdfast: {error}", err=True)
            context.exit(next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1))
        except BrokenPipeError:  # `| head` has seen enough
            _write_nowhere()
            context.exit(PIPE_CLOSED)
        except KeyboardInterrupt:
            context.exit(INTERRUPTED)
        return result


def _write_nowhere() -> None:
    """What is still buffered must not fail when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=Command, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast", message="holdfast %(version)s")
def holdfast() -> None:
    """Look into a hold, change it, move it, check it.

    A hold is one file of named structures: dicts and task trackers. All commands work while other programs have
    it open, and those that only look open it read-only.
    """


for command in (
    inspect,
    ls,
    get,
    set_value,
    delete,
    edit,
    dump,
    load,
    import_files,
    check,
    backup,
    demo,
    completion,
):
    holdfast.add_command(command)
