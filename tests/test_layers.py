"""Imports point down only, and what must have one door has one."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"


def name_of(path: Path) -> str:
    """The dotted name of the module in `path`; a package's is its own name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports_of(path: Path) -> Iterator[tuple[str, str | None, int]]:
    """(module, name taken from it or None, line) of each import statement."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield from ((node.module or "", alias.name, node.lineno) for alias in node.names)


def importers_of(library: str) -> set[str]:
    return {
        module
        for module, path in MODULES.items()
        for imported, _, _ in imports_of(path)
        if imported.split(".")[0] == library
    }


def test_imports_point_down_only(capsys: pytest.CaptureFixture[str]) -> None:
    code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == 0, capsys.readouterr().out


def test_every_module_has_a_layer() -> None:
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered = {name.strip(" ()") for layer in contract["layers"] for name in layer.split("|")}
    assert {".".join(name.split(".")[:2]) for name in MODULES if "." in name} <= layered


def test_only_the_engine_knows_sqlite() -> None:
    assert {name for name in importers_of("apsw") if not f"{name}.".startswith("holdfast.engine.")} == set()


def test_no_second_sqlite_library_is_in_the_process() -> None:
    assert importers_of("sqlite3") == set()


@pytest.mark.parametrize("library", ["click", "rich"])
def test_only_the_faces_for_people_need_the_cli_extra(library: str) -> None:
    """`import holdfast` works where the extra is not installed."""
    for name in importers_of(library):
        if not name.startswith("holdfast.cli"):
            loaded_with_the_module = [
                node.lineno
                for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body
                if isinstance(node, ast.Import | ast.ImportFrom)
                and library in ast.unparse(node).replace(".", " ").split()
            ]
            assert loaded_with_the_module == [], name


def test_nothing_is_imported_through_the_init_of_a_package_around_it() -> None:
    """`from holdfast.errors import BusyError`, not `from holdfast import BusyError`: no cycle can come of it."""
    through_init = [
        f"{name}:{line}: {imported} ({taken})"
        for name, path in MODULES.items()
        for imported, taken, line in imports_of(path)
        if f"{name}.".startswith(f"{imported}.")
        and (name != imported or taken is None)
        and f"{imported}.{taken}" not in MODULES
    ]
    assert through_init == []
