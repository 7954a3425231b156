"""What the documents say works: each page's Python runs from top to bottom, and each link leads somewhere.

A page is run as one program in a directory of its own, with everything else blanked out, so that a traceback names
the line of the page. A line `expression  # -> value` is checked.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])

FENCE = re.compile(r"^( *)```(\S*)")
SHOWN = re.compile(r"^( *)(\S.*?) +# -> (.+)$")
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?\)")
ELSEWHERE = re.compile(r"^(https?:|mailto:)")

# Fork, so that a page may start processes without being imported anew by each.
RUN = """\
import multiprocessing, runpy, sys
multiprocessing.set_start_method("fork")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fenced(page: Path) -> list[tuple[str, str | None]]:
    """Each line of the page, with the language of the block around it: None for prose, fences themselves are ''."""
    lines: list[tuple[str, str | None]] = []
    language: str | None = None
    indent = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = FENCE.match(line)
        if fence and language is None:
            indent, language = fence[1], fence[2] or "text"
            lines.append(("", ""))
        elif fence:
            language = None
            lines.append(("", ""))
        else:
            lines.append((line.removeprefix(indent) if language else line, language))
    return lines


def checked(line: str) -> str:
    """`expression  # -> value` as an assertion on the same line."""
    shown = SHOWN.match(line)
    if not shown:
        return line
    indent, expression, value = shown.groups()
    ast.parse(expression, mode="eval")
    return f"{indent}_shown = ({expression}); assert repr(_shown) == {value!r}, repr(_shown)"


def program(page: Path) -> str:
    return "\n".join(checked(line) if language == "python" else "" for line, language in fenced(page))


@pytest.mark.parametrize("page", [page for page in PAGES if program(page).strip()], ids=name_of)
def test_page_runs(page: Path, tmp_path: Path) -> None:
    script = tmp_path / page.with_suffix(".py").name
    script.write_text(program(page), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(script)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, f"{name_of(page)} exited with {ran.returncode}\n{ran.stdout}{ran.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_page_lead_somewhere(page: Path) -> None:
    targets = [link for line, language in fenced(page) if language is None for link in LINK.findall(line)]
    paths = [unquote(target.split("#")[0]) for target in targets if not ELSEWHERE.match(target)]
    assert [path for path in paths if path and not (page.parent / path).exists()] == []


def test_lock_names_the_public_index_only() -> None:
    """A lock made on a machine with an index of its own would install nowhere else."""
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    sources = set(re.findall(r"registry = \"(.+?)\"", lock))
    hosts = {re.sub(r"^(https?://[^/]+/).*", r"\1", url) for url in re.findall(r"url = \"(.+?)\"", lock)}
    assert (sources, hosts) == ({"https://pypi.org/simple"}, {"https://files.pythonhosted.org/"})
