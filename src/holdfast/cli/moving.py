"""`dump`, `load` and `import`: whole structures out of a hold and into one."""

import importlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from holdfast import hold as holds
from holdfast.cli import lines
from holdfast.cli.arguments import any_structure_argument, file_argument
from holdfast.cli.loading import Loader
from holdfast.cli.progress import Advance, progress
from holdfast.cli.stored import Structure, look, own_options
from holdfast.errors import InvalidError, MissingError

# The faces are beside the command, not below it: an importer is named here and found when it is asked for.
IMPORTERS = {"tastypy": "holdfast.compat.tastypy_files:import_tastypy"}
ADVANCE_EVERY = 1_000  # lines
LOST = 1  # the exit code


@click.command()
@file_argument
@any_structure_argument
def dump(file: str, structure: str | None) -> None:
    """Print all that is in FILE, or in STRUCTURE, as JSON lines that `load` takes back.

    \b
    A line announces a structure, its entries follow in order:
      {"structure":"pages","kind":"dict"}
      {"key":"/","value":{"title":"Home"}}
      {"key":[3,4],"value":7}             a list as a key is a tuple
      {"key":"model","base64":"gASV…"}    a value of a serializer other than JSON

    Other programs may write meanwhile; each entry is whole. For all of one moment, dump a `backup`.
    """
    with look(file) as hold:
        names = [structure] if structure is not None else list(hold.structures())
        out = sys.stdout.buffer
        for name in names:
            _dump(Structure(hold, name), out)


def _dump(structure: Structure, out: IO[bytes]) -> None:
    announced = lines.header(structure.name, structure.kind, own_options(structure.table))
    out.write(announced.encode() + b"\n")
    with progress(structure.name, len(structure), beside_output=True) as advance:
        for number, (key, stored) in enumerate(structure.items(), 1):
            line = lines.entry(key, stored, structure.serializer, structure.marks(key))
            out.write(line.encode() + b"\n")
            if number % ADVANCE_EVERY == 0:
                advance(ADVANCE_EVERY)
    out.flush()


@click.command()
@file_argument
@any_structure_argument
@click.option("--from", "source", type=click.File("rb"), default="-", help="Read this file and not stdin.")
def load(file: str, structure: str | None, source: IO[bytes]) -> None:
    """Bring JSON lines, as `dump` prints them, into FILE; it and its structures are made if missing.

    Keys that are there already get the new value, other keys stay. With STRUCTURE everything goes there, whatever
    the name in the dump; lines of only "key" and "value" will do.
    """
    with holds.open(file) as hold:
        loader = Loader(hold, structure)
        with progress("bytes read", _size_of(source)) as advance:
            loader.load(lines.parse(_texts(source, advance)))
    told = ", ".join(f"{count:,} into {name}" for name, count in loader.counts.items())
    click.echo(f"loaded {told}" if told else "there was nothing to load", err=True)


def _texts(source: IO[bytes], advance: Advance) -> Iterator[str]:
    for number, line in enumerate(source, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise InvalidError(f"line {number} is not UTF-8 ({error.reason} at byte {error.start})") from None
        advance(len(line))


def _size_of(source: IO[bytes]) -> int | None:
    try:
        found = os.fstat(source.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


@click.command("import")
@click.argument("format", type=click.Choice(list(IMPORTERS)))
@click.argument("path", type=click.Path())
@click.option("--to", type=click.Path(), help="The hold to write; by default PATH with the ending .hold.")
@click.option("--name", help="The structure to write; by default the importer's choice.")
@click.pass_context
def import_files(context: click.Context, format: str, path: str, to: str | None, name: str | None) -> None:
    """Bring what another package wrote at PATH into a hold. PATH is only read.

    tastypy: a directory of N.json or N.json.gz; a damaged last file is read as far as it goes, and what of it was
    lost is told, with exit code 1.
    """
    if not os.path.exists(path):
        raise MissingError(f"there is no {path!r} to import: name the file or directory that {format} wrote")
    target = to or str(Path(os.path.normpath(path)).with_suffix(".hold"))
    named: dict[str, Any] = {} if name is None else {"name": name}
    with progress("files read", None) as advance:
        report = _importer(format)(path, target, progress=lambda done, total: advance(1, total), **named)
    click.echo(str(report))
    if report.lost:
        context.exit(LOST)


def _importer(format: str) -> Callable[..., Any]:
    module, function = IMPORTERS[format].split(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
