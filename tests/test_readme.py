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
def test_snakemake_commands(project: Project) -> None:
    """Each as it stands, but on the tests' configuration and as a dry run."""
    found = [words for words in commands() if words[0] == "snakemake"]
    assert len(found) >= 3
    for words in found:
        configured = [TINY if word.startswith("config/") else word for word in words]
        project.run(*configured, "--dry-run")


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


def test_runs_are_the_archived_ones() -> None:
    folder = ROOT / "results/archive/benchmarks"
    kills = pd.read_csv(folder / "kills.csv")
    (artifacts,) = set(kills["identical_artifacts"])
    assert f"after {len(kills)} kills at random moments the\n[{artifacts} artifacts]" in README
    slurm = pd.read_csv(folder / "slurm.csv", index_col="engine")
    ratio = slurm["seconds"]["slurm"] / slurm["seconds"]["local"]
    jobs, submissions, levels = slurm.loc["slurm", ["jobs", "submissions", "levels"]]
    assert f"the {jobs} jobs of the tests' configuration were {submissions} submissions" in README
    assert f"at most {levels} of them one after the other, and took\n{ratio:.1f} times" in README


def table_of_findings() -> list[list[str]]:
    section = README.partition("## What was found")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]


def test_verdicts_are_the_archived_ones() -> None:
    rows = table_of_findings()
    profiles = [cell.strip("`") for cell in rows[0][3:]]
    assert set(profiles) == {p.parent.name for p in (ROOT / "results/archive").glob("*/claims.csv")}
    archived = {
        profile: pd.read_csv(ROOT / f"results/archive/{profile}/claims.csv", index_col="claim")
        for profile in profiles
    }
    assert [row[0] for row in rows[1:]] == list(CLAIMS)
    for claim, text, _, *verdicts in rows[1:]:
        assert text == CLAIMS[claim].text
        found = [archived[profile].loc[claim] for profile in profiles]
        assert verdicts == ["–" if row["rule"] == "none" else row["verdict"] for row in found]


def test_verdicts_are_those_of_other_seeds() -> None:
    archive = ROOT / "results/archive/demo"
    own = pd.read_csv(archive / "claims.csv", index_col="claim")["verdict"]
    others = [
        pd.read_csv(path, index_col="claim")["verdict"]
        for path in archive.glob("replicates/*/claims.csv")
    ]
    changed = [(claim, other[claim]) for other in others for claim in own.index[other != own]]
    assert len(others) == 5
    assert changed == [("C2", "proved")]
    assert "With\nfive other seeds" in README
    assert "the same, except that C2 is proved with one of them" in README


def test_findings_are_the_archived_ones() -> None:
    """Every number of the sentences, from both archives."""
    found = {row[0]: row[2] for row in table_of_findings()[1:]}
    archive = ROOT / "results/archive"
    demo, main = (
        pd.read_csv(archive / f"{profile}/claim_rows.csv") for profile in ("demo", "cifar10-subset")
    )

    def of(claim: str, rows: pd.DataFrame = demo, among: str = "") -> pd.DataFrame:
        return rows[(rows["claim"] == claim) & rows["subject"].str.contains(among)]

    def says(claim: str, *words: str) -> None:
        for word in words:
            assert word in found[claim], (claim, word)

    drawn, large = (1 + of("C1b", rows)["estimate"] for rows in (demo, main))
    says("C1b", f"{drawn.min():.2g} to {drawn.max():.1f} times", "for small")
    says("C1b", f"{large.min():.1f} to {large.max():.1f} times for those of CIFAR-10's size")
    assert (of("C2")["verdict"] == "inconclusive").sum() == 2
    assert {*of("C1a", main)["verdict"], *of("C3a", main)["verdict"]} == {"reproduced"}
    seen = of("C3b", main, "^resnet56$")
    planes = pd.read_csv(archive / "cifar10-subset/tables/visibility.csv", index_col="network")
    says("C3b", f"{seen['estimate'].item():.0f} of {planes['n_planes']['resnet56']} slices")
    says("C3b", f"up to {of('C3b')['estimate'].max():.0%}".replace("%", " %"))
    smooth = pd.concat([of("C4b"), of("C4b", main)])
    assert smooth[["low", "high"]].abs().to_numpy().max() < 1e-6
    says("C4b", "10⁻⁶")
    biased = of("C4c")[of("C4c")["verdict"] == "not reproduced"]["estimate"].sort_values()
    says("C4c", "{:.0%}, {:.0%} and {:.0%}".format(*biased).replace("%", " %"))
    corrected = of("C4d")
    assert corrected[["low", "high"]].abs().to_numpy().max() < 0.05
    says("C4d", "5 %")
    drawings = [
        pd.read_csv(archive / f"{profile}/tables/rendered_curvatures.csv")
        for profile in ("demo", "cifar10-subset")
    ]
    fits = pd.concat(drawings).query("plane == 'hessian'")
    quarter, half, whole = (fits[fits["region"] == region] for region in (0.25, 0.5, 1.0))
    says("C5", f"quarter of the slice for {quarter['saddle'].sum()} of {len(quarter)} networks")
    says("C5", f"half for {half['saddle'].sum()}, over the whole for ResNet-56 alone")
    assert list(whole[whole["saddle"]]["network"]) == ["resnet56"]
    table = pd.read_csv(archive / "demo/tables/correlations.csv")
    table = table[table["generalization"] == "gap_loss"].set_index("measure")
    flat = table.loc["mean_curvature"]
    says("C6a", *(f"{flat[key]:.2f}".replace("-", "−") for key in ("within_strata", "noise_0")))
    says("C6a", f"{table['within_strata']['distance']:.2f}")
    for end in ("λ_max", "λ_min"):
        decades = of("C6b", main, f"^(?!population).*{end}")["estimate"]
        says("C6b", f"{decades.min():.1f} to {decades.max():.1f}", end)
    (size,) = of("C7", main)["estimate"]
    assert 0.0005 < size < 0.0006
    counts = pd.read_csv(archive / "cifar10-subset/tables/image_counts.csv", index_col="network")
    says("C7", "0.06 %", f"over {counts['n_images']['densenet121'].max()} images")
    lower = of("C8a")["verdict"]
    says("C8a", f"{(lower == 'reproduced').sum()} of {len(lower)} cases")
    holds = (of("C8b")["verdict"] == "reproduced").to_numpy().reshape(-1, 3)  # by radius
    assert holds[:, 0].all()
    says("C8b", f"{holds[:, 2].sum()} of {len(holds)} saddles")
    slopes = pd.read_csv(archive / "demo/tables/lowest_losses.csv")
    assert (slopes["slope_lowest_loss"] <= slopes["hessian_lowest_loss"]).all()


def test_links() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        # Figures of the archive exist once it was made.
        if not target.startswith("results/archive"):
            assert (ROOT / target).exists(), target
