"""The `holdfast` command: looking into a hold, changing it, moving it, checking it, and the demo.

Nothing here does what the library can't; a command opens a hold, calls it, and shows what comes back.
"""

import sys


def main() -> None:
    """What the installed script runs."""
    try:
        from holdfast.cli.app import holdfast
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit("holdfast: the command needs the packages click and rich: pip install 'holdfast[cli]'")
    holdfast(prog_name="holdfast")
