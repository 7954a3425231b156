"""Running a snippet as a program of its own, and writing directories as the original tastypy did."""

import gzip
import json
import subprocess
import sys
import textwrap
from pathlib import Path


def run(code: str, directory: Path, *, status: int = 0, signum: int = 0) -> str:
    """Run `code` in `directory`, check how it ended, and return what it printed."""
    ran = finish(start(code, directory))
    expected = -signum if signum else status
    assert ran[0] == expected, f"ended with {ran[0]}, not {expected}\n{ran[1]}{ran[2]}"
    return ran[1]


def start(code: str, directory: Path) -> subprocess.Popen[str]:
    script = directory / "program.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = program.communicate(timeout=60)
    return program.returncode, out, err


def old_line(key: object, value: object) -> str:
    """One entry as the original wrote it: in ASCII, every backslash of the key doubled."""
    return json.dumps(key).replace("\\", "\\\\") + "\t" + json.dumps(value) + "\n"


def write_old(
    directory: Path, items: list[tuple[object, object]], *, gzipped: bool = False, file_size: int = 3
) -> Path:
    """A directory of the original with these entries."""
    directory.mkdir(parents=True)
    for number, first in enumerate(range(0, len(items), file_size)):
        text = "".join(old_line(key, value) for key, value in items[first : first + file_size])
        if gzipped:
            (directory / f"{number}.json.gz").write_bytes(gzip.compress(text.encode("ascii")))
        else:
            (directory / f"{number}.json").write_text(text, encoding="ascii")
    return directory
