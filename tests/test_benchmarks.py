"""The benchmarks run: every group, on small sizes, with a figure in each row. No time is judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.__main__ import GROUPS
from benchmarks.harness import Bar, Rounds, Table, absolute
from benchmarks.report import RESULTS, markdown, write
from benchmarks.scale import record

ROOT = Path(__file__).resolve().parents[1]


def smoke(group: str, room: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", group, "--quick", "--json"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(room)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_runs_and_every_row_has_our_figure(group: str, tmp_path: Path) -> None:
    rows = smoke(group, tmp_path)["rows"]
    assert rows
    assert [row["measurement"] for row in rows if row["figures"]["holdfast"] is None] == []
    assert [row["measurement"] for row in rows if row["bar"] and row["verdict"] == "–"] == []
    assert list(tmp_path.iterdir()) == [], "its files are left behind"


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    rounds = Rounds()
    for ours, theirs in ((1.0, 10.0), (2.0, 4.0), (100.0, 300.0)):
        rounds.add("holdfast", {"get": ours})
        rounds.add("dict", {"get": theirs})
    assert rounds.ratio(("dict", "get"), ("holdfast", "get")) == 3.0


def test_a_bar_between_the_quartiles_is_neither_met_nor_missed() -> None:
    rounds = Rounds()
    for theirs in (5.0, 16.0, 5.0, 17.0, 5.0, 16.0):
        rounds.add("holdfast", {"update": 1.0})
        rounds.add("apsw", {"update": theirs})
    given = {"title": "update", "unit": "ms", "scale": 1.0, "clock": "wall"}
    assert rounds.faster("update", "apsw", Bar(6, at_least=True), **given).verdict == "on the edge"
    assert rounds.faster("update", "apsw", Bar(4, at_least=True), **given).verdict == "met"
    assert rounds.faster("update", "apsw", Bar(20, at_least=True), **given).verdict == "NOT MET"


def test_a_bar_is_met_at_its_limit_and_on_its_own_side() -> None:
    assert Bar(2.3).met(2.3)
    assert not Bar(2.3).met(2.4)
    assert Bar(3, at_least=True).met(3.0)
    assert not Bar(3, at_least=True).met(2.9)


def test_a_peer_that_is_not_installed_is_named_as_such() -> None:
    rounds = Rounds(missing=["lmdb"])
    rounds.add("holdfast", {"get": 1.0})
    table = Table("hot", "Hot", [absolute("get", "ms", "wall", rounds.figures("get"), Bar(2, "ms"))])
    assert "| get | ms | wall | 1.00 | not installed |  | ≤ 2 ms | met |" in markdown(table)


def test_a_written_table_replaces_the_one_of_its_group_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(
        "head\n<!-- hot: begin -->stale<!-- hot: end -->\n<!-- memory: begin -->kept<!-- memory: end -->\n"
    )
    for figure in (1.0, 2.0):
        table = Table("hot", "Hot", [absolute("get", "ms", "wall", {"holdfast": figure}, None)])
        write(table, "python -m benchmarks hot --write", path)
    text = path.read_text(encoding="utf-8")
    assert "| 2.00 |" in text
    assert "| 1.00 |" not in text
    assert "stale" not in text
    assert "-->kept<!--" in text


@pytest.mark.parametrize("group", GROUPS)
def test_the_results_have_a_place_for_each_group(group: str) -> None:
    text = RESULTS.read_text(encoding="utf-8")
    assert text.index(f"<!-- {group}: begin -->") < text.index(f"<!-- {group}: end -->")


def test_a_record_is_about_136_bytes_of_json_and_differs_by_its_salt() -> None:
    sizes = [len(json.dumps(record(n, n * 7919 + 1), separators=(",", ":"))) for n in range(0, 100_000, 97)]
    assert 130 <= sum(sizes) / len(sizes) <= 140
    assert record(1, 1) != record(1, 2)
