"""What a run is going to compute is said before it starts."""

import sys
from pathlib import Path

import pytest
import yaml

from hessian_directions.reproduction import announcement, artifacts

ROOT = Path(__file__).parents[2]
SETTINGS = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text())


def record(path: Path, rule: str, seconds: float, threads: int = 1) -> None:
    artifacts.write_json(path, {"rule": rule, "wall_seconds": seconds, "threads": threads})


def test_counts_what_is_computed() -> None:
    text = announcement.announce(SETTINGS, Path("nowhere"), cores=2)
    assert text.splitlines() == [
        "Profile tiny: 2 networks (2 trained here), 11 analyses, synthetic saddles, a population.",
        "No earlier run is archived, so there is no estimate of the time.",
    ]
    networks = SETTINGS["networks"] | {"mine": {"checkpoint": {}}}
    text = announcement.announce(SETTINGS | {"networks": networks}, Path("nowhere"), cores=2)
    assert "3 networks (2 trained here)" in text


def test_estimate_from_the_records(tmp_path: Path) -> None:
    """Wall times weighted by threads, over the cores; the longest rules first."""
    record(tmp_path / "networks/a/eigenpairs.run.json", "find_eigenpairs", 300.0, threads=2)
    record(tmp_path / "networks/b/eigenpairs.run.json", "find_eigenpairs", 100.0)
    record(tmp_path / "networks/b/shards/random/0.run.json", "evaluate_surface", 500.0)
    record(tmp_path / "synthetic/saddles.run.json", "analyze_saddles", 3.0)
    lines = announcement.announce(SETTINGS, tmp_path, cores=4).splitlines()
    # 600 + 100 + 500 + 3 seconds are 20.05 minutes, over four cores 5.01: rounded up.
    assert "its 4 jobs took 21 core minutes: about 6 on 4 cores" in lines[1]
    rules = [line.split() for line in lines[2:]]
    assert rules == [
        ["find_eigenpairs", "700", "s"],
        ["evaluate_surface", "500", "s"],
        ["analyze_saddles", "3", "s"],
    ]


def run(monkeypatch: pytest.MonkeyPatch, config: str) -> int:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["announcement", config])
    return announcement.main()


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "tests/config/tiny.yaml") == 0
    assert capsys.readouterr().out.startswith("Profile tiny: ")


def test_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the first command of a run, so the first to meet a wrong configuration."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | {"sed": 1}))
    assert run(monkeypatch, str(path)) == 1
    assert capsys.readouterr().err.startswith(f"announce: {path}: unknown key 'sed'; allowed here")
    assert run(monkeypatch, str(tmp_path / "none.yaml")) == 1
    assert "none.yaml cannot be read" in capsys.readouterr().err


def test_corrupt_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.run.json").write_text("{")
    with pytest.raises(artifacts.ArtifactError, match=r"a.run.json is corrupt"):
        announcement.announce(SETTINGS, tmp_path, cores=2)
