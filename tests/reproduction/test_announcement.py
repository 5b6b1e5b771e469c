"""What a run is going to compute is said before it starts."""

import sys
from pathlib import Path

import pytest
import yaml

from hessian_directions.reproduction import announcement, artifacts, configuration

ROOT = Path(__file__).parents[2]
GIVEN = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text())
SETTINGS = configuration.complete(GIVEN, "tiny", ROOT)


def record(path: Path, rule: str, seconds: float, threads: int = 1) -> None:
    artifacts.write_json(path, {"rule": rule, "wall_seconds": seconds, "threads": threads})


def announced(settings: dict, archive: Path, cores: int) -> list[str]:
    return announcement.announce(settings, archive, cores, ROOT).splitlines()


def test_passes_are_counted_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass over 64 of the 100 images takes a second here."""
    monkeypatch.setattr(announcement, "_seconds", lambda compute: 1.0)
    classifier = GIVEN["networks"]["classifier"] | {"analyses": ["lines"]}
    given = GIVEN | {"networks": {"classifier": classifier}}
    lines = announced(configuration.complete(given, "tiny", ROOT), Path("nowhere"), cores=2)
    assert lines[0] == (
        "Profile tiny: 1 networks (1 trained here), 4 analyses "
        "(saddles, saddle_traces, population among them)."
    )
    # 44 values, a gradient and 4 derivatives; 3 epochs of 500 images; five seconds a job.
    assert "Predicted from a few passes: 2 min of one core, about 52 s on 2." in lines[1]
    assert [line.split() for line in lines[2:]] == [
        ["lines", "77", "s"],
        ["train_network", "23", "s"],
    ]


def test_estimate_from_the_records(tmp_path: Path) -> None:
    """Wall times weighted by threads, over the cores; the longest rules first."""
    record(tmp_path / "networks/a/eigenpairs.run.json", "eigenpairs", 300.0, threads=2)
    record(tmp_path / "networks/b/eigenpairs.run.json", "eigenpairs", 100.0)
    record(tmp_path / "networks/b/shards/slices/random_0.run.json", "slices_shard", 500.0)
    record(tmp_path / "saddles.run.json", "saddles", 3.0)
    lines = announced(SETTINGS, tmp_path, cores=4)
    assert lines[0].startswith("Profile tiny: 2 networks (2 trained here), 17 analyses (saddles, ")
    # 600 + 100 + 500 + 3 seconds are 20.05 minutes, over four cores 5.01: rounded up.
    assert "its 4 jobs took 21 core minutes: about 6 on 4 cores" in lines[1]
    rules = [line.split() for line in lines[2:]]
    assert rules == [
        ["eigenpairs", "700", "s"],
        ["slices_shard", "500", "s"],
        ["saddles", "3", "s"],
    ]


def run(monkeypatch: pytest.MonkeyPatch, config: str) -> int:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["announcement", config])
    return announcement.main()


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "config/demo.yaml") == 0
    assert capsys.readouterr().out.startswith("Profile demo: ")


def test_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the first command of a run, so the first to meet a wrong configuration."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GIVEN | {"sed": 1}))
    assert run(monkeypatch, str(path)) == 1
    assert capsys.readouterr().err.startswith(f"announce: {path}: unknown key 'sed'; allowed here")
    assert run(monkeypatch, str(tmp_path / "none.yaml")) == 1
    assert "none.yaml cannot be read" in capsys.readouterr().err


def test_corrupt_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.run.json").write_text("{")
    with pytest.raises(artifacts.ArtifactError, match=r"a.run.json is corrupt"):
        announced(SETTINGS, tmp_path, cores=2)
