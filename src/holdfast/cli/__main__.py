"""`python -m holdfast.cli`: the command where no script is installed."""

from holdfast.cli.app import holdfast

holdfast(prog_name="holdfast")
