"""`set`, `del` and `edit`: changing a hold, seen at once by all who have it open."""

import sys
from pathlib import Path

import click

from holdfast.cli.arguments import file_argument, json_key_option, key_argument, structure_argument
from holdfast.cli.editing import Edit
from holdfast.cli.keys import from_json, key_from
from holdfast.cli.stored import Structure, change, face, find
from holdfast.errors import InvalidError, MissingError


@click.command("set")
@file_argument
@structure_argument
@key_argument
@click.argument("value")
@json_key_option
@click.option("--text", is_flag=True, help="VALUE is a string as it stands, not JSON.")
@click.option("--create", is_flag=True, help="Make the file, and the structure as a dict, if missing.")
def set_value(
    file: str, structure: str, key: str, value: str, json_key: bool, text: bool, create: bool
) -> None:
    """Set KEY to VALUE, which is JSON. A VALUE of - is read from stdin.

    \b
    holdfast set crawl.hold pages /about '{"title": "About"}'
    holdfast set crawl.hold titles /about 'About us' --text
    holdfast set crawl.hold grid '[3, 4]' 7 --json-key
    """
    given = sys.stdin.read() if value == "-" else value
    try:
        meant = given if text else from_json(given, "VALUE")
    except InvalidError as error:
        raise InvalidError(f"{error}; for a string add --text") from None
    wanted = key_from(key, json_key)
    with change(file, create) as hold:
        if structure not in hold.structures():
            if not create:
                raise MissingError(
                    f"there is no structure {structure!r} in {file!r}: --create makes it, as a dict"
                )
            hold.dict(structure)
        face(hold, structure)[wanted] = meant


@click.command("del")
@file_argument
@structure_argument
@click.argument("key", required=False)
@json_key_option
@click.option("--all", "everything", is_flag=True, help="Remove the whole structure, instead of a KEY.")
def delete(file: str, structure: str, key: str | None, json_key: bool, everything: bool) -> None:
    """Remove KEY, or with --all the whole of STRUCTURE."""
    if everything == (key is not None):
        raise click.UsageError("name a KEY, or say --all for the whole structure")
    wanted = None if key is None else key_from(key, json_key)
    with change(file) as hold:
        table = find(hold, structure)
        if everything:
            hold.drop(structure)
            return
        if not table.has(wanted):
            Structure(hold, structure).value(wanted)  # raises, and says what was meant
        del face(hold, structure)[wanted]


@click.command()
@file_argument
@structure_argument
@click.option(
    "--resume", type=click.Path(path_type=Path), help="Go on with the text that a refused edit has kept."
)
def edit(file: str, structure: str, resume: Path | None) -> None:
    """Open STRUCTURE as JSON lines in $EDITOR, and write back what changed as one transaction.

    Changed, new, removed and moved lines are all taken. If a line can't be read, or somebody else changed the same
    key meanwhile, nothing is written and your text is kept.
    """
    with change(file) as hold:
        face(hold, structure)  # refuses what can't be edited before a person has worked on it
    session = Edit(file, structure, resume)
    click.echo(session.run(), err=True)
