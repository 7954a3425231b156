"""SIGKILL at random instants and at each statement: the hold opens, is whole, and has all that was acknowledged."""

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.testing import kills


def test_forty_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    report = kills.kill_rounds(str(tmp_path / "k.hold"), seed=seed, rounds=27)  # a shared round kills two
    assert report.problems == []
    assert report.kills == 40
    assert report.acknowledged > 100


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_rounds_of_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    for series in range(20):  # a new hold each fifty, so that the first moments of one are met as well
        report = kills.kill_rounds(str(tmp_path / f"{series}.hold"), seed=seed + series, rounds=50)
        assert report.problems == []


def test_a_kill_at_each_statement_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.testing.kills", "each", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills = int(done.stdout.split(" kills")[0].rsplit(maxsplit=1)[-1])
    assert kills > 30, done.stdout
