"""The README's commands exist and its code runs."""

import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from project import ROOT, TINY, Project

from hessian_directions.reporting.claims import CLAIMS

sys.path.append(str(ROOT / "benchmarks"))

import goals

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = (line for block in blocks("sh") for line in block.splitlines())
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [words[1] for words in commands() if words[0] == "make"]
    assert {"figures", "reproduce", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_python_examples(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as a reader would type them; what torchrun starts, as one process."""
    monkeypatch.chdir(tmp_path)
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    exec(compile("\n".join(blocks("python")), "README.md", "exec"), {"__name__": "readme"})
    torch.distributed.destroy_process_group()
    assert "tensor" in capsys.readouterr().out
    assert "agree." in Path("mine.html").read_text()


@pytest.mark.workflow
def test_snakemake_commands(computed: Project) -> None:
    """Each as it stands, but on the tests' configuration and as a dry run."""
    found = [words for words in commands() if words[0] == "snakemake"]
    assert len(found) >= 3
    for words in found:
        configured = [TINY if word.startswith("config/") else word for word in words]
        computed.run(*configured, "--dry-run")


def test_benchmarks_are_the_archived_ones() -> None:
    """Two columns for each archived table: ratios and forward passes, with AVX-512 and without."""
    folder = ROOT / "results/archive/benchmarks"
    tables = [
        goals.readme_cells(pd.read_csv(folder / f"{name}.csv"))
        for name in ("cpu", "cpu_avx2")
        if (folder / f"{name}.csv").is_file()
    ]
    section = README.partition("## Beside other tools")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("| ")]
    stated = {re.split(r",| \(| v'| in ", cells[0].strip())[0]: cells[1:] for cells in rows[1:]}
    expected = {
        work.split(" at ")[0]: [cell for table in tables for cell in table[work]]
        for work in tables[0]
    }
    assert stated.keys() == expected.keys()
    for work, cells in expected.items():
        written = [cell.strip() for cell in stated[work]]
        assert written + [""] * (len(cells) - len(written)) == cells, work


def test_speed_of_training_is_the_archived_one() -> None:
    table = pd.read_csv(ROOT / "results/archive/benchmarks/training_cpu.csv", index_col="precision")
    stated = re.findall(r"(?:through )(\d+) .*?(bfloat16|float32), at (\d+) %", README, re.DOTALL)
    assert {precision for _, precision, _ in stated} == set(table.index)
    for speed, precision, share in stated:
        assert int(speed) == round(table["images_per_second"][precision])
        assert int(share) == round(100 * table["share_of_peak"][precision])


def test_verdicts_are_the_archived_ones() -> None:
    section = README.partition("## What was found")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    profiles = [cell.strip("`") for cell in rows[0][2:]]
    assert set(profiles) == {p.parent.name for p in (ROOT / "results/archive").glob("*/claims.csv")}
    archived = {
        profile: pd.read_csv(ROOT / f"results/archive/{profile}/claims.csv", index_col="claim")
        for profile in profiles
    }
    assert [row[0] for row in rows[1:]] == list(CLAIMS)
    for claim, text, *verdicts in rows[1:]:
        assert text == CLAIMS[claim].text
        assert verdicts == [archived[profile]["verdict"][claim] for profile in profiles]


def test_links() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        # Figures of the archive exist once it was made.
        if not target.startswith("results/archive"):
            assert (ROOT / target).exists(), target
