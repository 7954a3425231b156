"""`python -m holdfast.cli`: the command where no script is installed."""

from holdfast.cli import main

main()
