"""`inspect`, `ls` and `get`: what is in a hold. Nothing is changed."""

import shutil
import sys
from itertools import islice
from typing import Any

import click

from holdfast.cli import lines
from holdfast.cli.arguments import (
    any_structure_argument,
    file_argument,
    json_key_option,
    json_option,
    key_argument,
    structure_argument,
)
from holdfast.cli.keys import key_from, printable, shortened, shown
from holdfast.cli.stored import Structure, look, own_options
from holdfast.codec import encode
from holdfast.errors import InvalidError, MissingError
from holdfast.hold import Hold
from holdfast.journal.summary import Summary, summarize

WIDEST_KEY = 32
NARROWEST_VALUE = 20


# -- inspect --------------------------------------------------------------------------------------------------


@click.command()
@file_argument
@json_option("one JSON object")
def inspect(file: str, as_json: bool) -> None:
    """Tell what a hold is and has: structures, entries, sizes, and how far its journal is folded."""
    with look(file) as hold:
        summary = summarize(hold._journal)
        if as_json:
            click.echo(encode(_as_object(hold, summary)))
        else:
            _print_summary(hold, summary)


def _as_object(hold: Hold, summary: Summary) -> dict[str, Any]:
    return {
        "file": hold.path,
        "format": summary.format,
        "node": summary.node,
        "bytes": summary.file_bytes,
        "log_bytes": summary.log_bytes,
        "newest_batch": summary.newest_batch,
        "folded_batch": summary.folded_batch,
        "kept_batches": summary.kept_batches,
        "structures": [
            {
                "structure": table.name,
                "kind": table.kind,
                "entries": table.count(),
                "unfolded": len(table.over),
                "options": own_options(table),
            }
            for table in summary.tables
        ],
    }


def _print_summary(hold: Hold, summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    behind = summary.newest_batch - summary.folded_batch
    folded = f"{behind:,} of {summary.newest_batch:,} batches wait to be folded" if behind else "all folded"
    log = f", and {_size(summary.log_bytes)} in its log" if summary.log_bytes else ""
    console = Console(highlight=False)
    for label, text in (
        ("file", printable(hold.path)),
        ("size", _size(summary.file_bytes) + log),
        ("format", f"{summary.format}, written as node {summary.node}"),
        ("journal", f"{folded}; {summary.kept_batches:,} kept"),
    ):
        console.print(Text.assemble((f"{label:<8} ", "dim"), text), soft_wrap=True)
    shown_tables = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column, justify in (
        ("structure", "left"),
        ("kind", "left"),
        ("entries", "right"),
        ("unfolded", "right"),
    ):
        shown_tables.add_column(column, justify=justify)  # type: ignore[arg-type]
    shown_tables.add_column("options", overflow="fold")
    for table in summary.tables:
        options = ", ".join(f"{name}={value}" for name, value in own_options(table).items())
        cells = (shown(table.name), table.kind, f"{table.count():,}", f"{len(table.over):,}", options)
        shown_tables.add_row(*map(Text, cells))
    console.print()
    console.print(shown_tables if summary.tables else "no structures yet")


def _size(count: int) -> str:
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{count:,} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


# -- ls -------------------------------------------------------------------------------------------------------


@click.command()
@file_argument
@any_structure_argument
@click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="How many keys; 0 is all."
)
@json_option("JSON lines")
def ls(file: str, structure: str | None, limit: int, as_json: bool) -> None:
    """List the structures of FILE, or the keys of STRUCTURE with the beginning of each value."""
    with look(file) as hold:
        if structure is None:
            _list_structures(hold, as_json)
        else:
            _list_keys(Structure(hold, structure), limit, as_json)


def _list_structures(hold: Hold, as_json: bool) -> None:
    for table in hold._journal.all_tables():
        if as_json:
            click.echo(encode({"structure": table.name, "kind": table.kind, "entries": table.count()}))
        else:
            click.echo(f"{table.kind:<8} {table.count():>10,}  {shown(table.name)}")


def _list_keys(structure: Structure, limit: int, as_json: bool) -> None:
    entries = islice(structure.items(), limit or None)
    if as_json:
        for key, stored in entries:
            click.echo(lines.entry(key, stored, structure.serializer, structure.marks(key)))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    while page := list(islice(entries, 100)):
        key_width = min(max(len(shown(key)) for key, _ in page), WIDEST_KEY)
        for key, stored in page:
            name = f"{shortened(shown(key), max(WIDEST_KEY, width // 2)):<{key_width}}"
            room = max(width - len(name) - 2, NARROWEST_VALUE)
            click.echo(f"{name}  {structure.short(stored, room)}")
    more = len(structure) - limit
    if limit and more > 0:
        click.echo(f"… and {more:,} more; --limit 0 lists all", err=True)


# -- get ------------------------------------------------------------------------------------------------------


@click.command()
@file_argument
@structure_argument
@key_argument
@click.argument("path", nargs=-1)
@json_key_option
@click.option("--text", is_flag=True, help="Print a string without quotes, and bytes as they are.")
def get(file: str, structure: str, key: str, path: tuple[str, ...], json_key: bool, text: bool) -> None:
    """Print the value of KEY as JSON, or what is at PATH inside it.

    \b
    holdfast get crawl.hold pages /about
    holdfast get crawl.hold pages /about links 0
    holdfast get crawl.hold grid '[3, 4]' --json-key
    """
    wanted = key_from(key, json_key)
    with look(file) as hold:
        value = Structure(hold, structure).value(wanted)
    where = f"{structure}[{encode(wanted)}]"
    for step in path:
        value, where = _inside(value, step, where), f"{where}[{step}]"
    _print_value(value, where, text)


def _inside(value: Any, step: str, where: str) -> Any:
    if isinstance(value, dict):
        if step in value:
            return value[step]
        there = f"it has: {shortened(', '.join(map(shown, value)), 200)}" if value else "it is empty"
        raise MissingError(f"{where} has no {step!r}; {there}")
    if isinstance(value, list):
        try:
            return value[int(step)]
        except ValueError:
            raise InvalidError(f"{where} is a list, so {step!r} must be a number") from None
        except IndexError:
            raise MissingError(f"{where} has no item {step}; it has {len(value)}") from None
    raise MissingError(
        f"{where} is {shortened(encode(value), 40)}: there is nothing inside it, so no {step!r}"
    )


def _print_value(value: Any, where: str, text: bool) -> None:
    if text:
        if not isinstance(value, (str, bytes)):
            raise InvalidError(f"{where} is neither text nor bytes: leave out --text to have it as JSON")
        click.echo(value, nl=isinstance(value, str))
        return
    if isinstance(value, bytes):
        raise InvalidError(
            f"{where} is {len(value):,} bytes, which JSON can't hold: --text prints them as they are"
        )
    try:
        line = encode(value)
    except InvalidError as error:
        raise InvalidError(f"{where} can't be printed as JSON ({error}): read it from Python") from None
    click.echo(lines.indented(line) if sys.stdout.isatty() else line)
