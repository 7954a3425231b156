"""`python -m benchmarks [GROUP …]`: run all groups or the named ones, side by side with the peers."""

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks import report
from benchmarks.harness import Table
from benchmarks.scale import FULL, QUICK, Scale

GROUPS = ("hot", "overwrite", "update", "opening", "reading", "sharing", "memory")


def run(group: str, scale: Scale) -> Table:
    """One group in a directory of its own on the disk of $TMPDIR, or of the current directory."""
    room = Path(tempfile.mkdtemp(prefix=f"bench-{group}-", dir=os.environ.get("TMPDIR") or os.getcwd()))
    try:
        return importlib.import_module(f"benchmarks.{group}").run(scale, room)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all if none is given"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run on small sizes; its figures mean nothing"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/RESULTS.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object a group instead of tables")
    given = parser.parse_args()
    if unknown := set(given.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}: there are {', '.join(GROUPS)}")
    if given.quick and given.write:
        parser.error("--quick measures nothing worth keeping: leave out --write")
    return given


def main() -> int:
    """0 when every group ran, whether or not its bars are met; 1 when one failed."""
    given = arguments()
    failed, verdicts = [], []
    for group in given.groups or GROUPS:
        print(f"{group} …", file=sys.stderr, flush=True)
        try:
            table = run(group, QUICK if given.quick else FULL)
        except Exception:  # noqa: BLE001 - one group that fails must not cost the figures of the others
            traceback.print_exc()
            failed.append(group)
            continue
        verdicts += [row.verdict for row in table.rows]
        if given.json:
            print(json.dumps(report.as_plain(table)), flush=True)
        else:
            report.show(table)
        if given.write:
            report.write(table, f"python -m benchmarks {group} --write")
    judged = [verdict for verdict in verdicts if verdict != "–"]
    print(f"{judged.count('met')} of {len(judged)} bars met", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
