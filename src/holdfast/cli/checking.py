"""`check` and `backup`: whether a file is sound, and a copy of it that is."""

import click

from holdfast.cli.arguments import file_argument, json_option
from holdfast.cli.keys import printable
from holdfast.cli.stored import expect, look
from holdfast.codec import encode
from holdfast.errors import CorruptError
from holdfast.journal import identity

FOUND = 1  # the exit code


@click.command()
@file_argument
@click.option(
    "--adopt", is_flag=True, help="Accept a copy of a hold that was in use as it is, and then check it."
)
@json_option("one JSON object")
@click.pass_context
def check(context: click.Context, file: str, adopt: bool, as_json: bool) -> None:
    """Verify every invariant of FILE, and say what does not hold. Exit code 1 if there is anything.

    A file that was copied while it was in use lacks its newest changes, and is refused. With --adopt it becomes a
    hold of its own, without them.
    """
    expect(file)
    if adopt:
        identity.adopt_copy(file)
    elif identity.is_torn_copy(file):
        raise CorruptError(identity.torn_copy_message(file))
    with look(file) as hold:
        problems = hold.check()
        entries = {table.name: table.count() for table in hold._journal.all_tables()}
        path = hold.path
    if as_json:
        click.echo(encode({"file": path, "problems": problems, "entries": entries}))
    else:
        for problem in problems:
            click.echo(printable(problem))
        told = f"{len(problems)} problems" if problems else "no problem"
        click.echo(
            f"{printable(path)}: {told} in {len(entries)} structures, {sum(entries.values()):,} entries"
        )
    if problems:
        click.echo("restore a backup, or save what can be read: holdfast dump", err=True)
        context.exit(FOUND)


@click.command()
@file_argument
@click.argument("target", type=click.Path())
def backup(file: str, target: str) -> None:
    """Write a copy of FILE, as of one moment, to TARGET; also while others write. Nothing is overwritten."""
    with look(file) as hold:
        hold.backup(target)
