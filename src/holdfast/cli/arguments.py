"""The arguments and options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from holdfast.cli import completing

file_argument = click.argument("file", type=click.Path())
structure_argument = click.argument("structure", shell_complete=completing.structures)
any_structure_argument = click.argument("structure", required=False, shell_complete=completing.structures)
key_argument = click.argument("key", shell_complete=completing.keys)
json_key_option = click.option(
    "--json-key", is_flag=True, help='KEY is JSON: 7, 1.5, null, or [1, "a"] for a tuple.'
)


def json_option(what: str) -> Callable[[Any], Any]:
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what}, for scripts.")
