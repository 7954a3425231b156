"""Completion in a shell: of commands and options by click, of structures and keys by looking into the file."""

from itertools import islice

import click
from click.shell_completion import get_completion_class

from holdfast.cli.stored import Structure, look
from holdfast.errors import HoldfastError

SHELLS = ("bash", "zsh", "fish")
KEYS_OFFERED = 200


def structures(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The structures of the FILE that stands before."""
    try:
        with look(context.params["file"]) as hold:
            return [name for name in hold.structures() if name.startswith(incomplete)]
    except (HoldfastError, KeyError):
        return []  # a file that can't be opened is told by the command itself, not at each press of a key


def keys(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The first keys of the STRUCTURE that stands before."""
    try:
        with look(context.params["file"]) as hold:
            stored = Structure(hold, context.params["structure"])
            fitting = (key for key in stored if isinstance(key, str) and key.startswith(incomplete))
            return list(islice(fitting, KEYS_OFFERED))
    except (HoldfastError, KeyError):
        return []


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, files, structures and keys.

    \b
    bash   eval "$(holdfast completion bash)"              in ~/.bashrc
    zsh    eval "$(holdfast completion zsh)"               in ~/.zshrc
    fish   holdfast completion fish > ~/.config/fish/completions/holdfast.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "holdfast", "_HOLDFAST_COMPLETE").source())
