"""What one module of the standard library holds and imports, read from its source. Nothing is ever imported."""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
Found = dict[str, Any]


def source_of(name: str) -> Path | None:
    """Where the source of a module lies; None if it has none here: compiled, built in, or of another system."""
    place = LIBRARY.joinpath(*name.split("."))
    for candidate in (place / "__init__.py", place.with_name(place.name + ".py")):
        if candidate.is_file():
            return candidate
    return None


def scan(name: str) -> Found:
    """What a module holds, and the modules that it imports, anywhere in it."""
    path = source_of(name)
    if path is None:
        return {"source": None, "lines": 0, "functions": 0, "classes": 0, "imports": []}
    text = path.read_bytes()
    nodes = list(ast.walk(ast.parse(text)))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return {
        "source": str(path.relative_to(LIBRARY)),
        "lines": text.count(b"\n"),
        "functions": sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "imports": sorted({module for node in nodes for module in _imported(node, package)}),
    }


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _with_parents(alias.name)
    elif isinstance(node, ast.ImportFrom):
        base = _base(node, package)
        yield from _with_parents(base)
        for alias in node.names:  # a name taken from a package may be a module of it
            if source_of(f"{base}.{alias.name}") is not None:
                yield from _with_parents(f"{base}.{alias.name}")


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def _with_parents(name: str) -> Iterator[str]:
    """`a.b.c` runs `a` and `a.b` too. What is not of the standard library is left out."""
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        for count in range(1, len(parts) + 1):
            yield ".".join(parts[:count])


def crawl_plainly(first: str) -> dict[str, Found]:
    """The whole crawl in one process and a plain dict: what the other one must come to."""
    found: dict[str, Found] = {}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = scan(name)
            waiting += found[name]["imports"]
    return found
