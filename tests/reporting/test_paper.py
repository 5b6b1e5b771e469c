"""The manuscript: what it quotes, what it shows, and whether the archives' numbers support its sentences."""

import csv
import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typst
import yaml
from project import ROOT

from hessian_directions.reporting import claims
from hessian_directions.reproduction.source_files import declared

RUNS = {"main": "results/archive/cifar10-subset", "demo": "results/archive/demo"}
READ = ("paper/*", "results/archive/benchmarks/*.csv")
DRAWN = ("figures/*.pdf", "tables/*.csv", "claim*.csv", "configuration.yaml")
FLOATS = (ROOT / "paper/floats.typ").read_text()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The manuscript and what it reads, for a test to alter."""
    patterns = [*READ, *(f"{run}/{pattern}" for run in RUNS.values() for pattern in DRAWN)]
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return tmp_path


def n_marked(root: Path) -> int:
    """How many sentences say that the numbers do not support them."""
    found = typst.query(
        str(root / "paper/paper.typ"),
        "<unsupported>",
        root=str(root),
        ignore_system_fonts=True,
        sys_inputs={role: f"/{folder}" for role, folder in RUNS.items()},
    )
    return len(json.loads(found))


def alter(path: Path, where: dict[str, str], column: str, value: str) -> None:
    """Another value in all rows with these entries."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if row.items() >= where.items()]
    assert chosen, f"no row of {path.name} has {where}"
    for row in chosen:
        row[column] = value
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_archives_support_every_sentence(tree: Path) -> None:
    assert n_marked(tree) == 0


@pytest.mark.parametrize(
    ("role", "table", "where", "column", "value"),
    [
        ("main", "claims", {"claim": "C7"}, "verdict", "inconclusive"),
        ("demo", "claims", {"claim": "C4b"}, "verdict", "inconclusive"),
        ("main", "tables/visibility", {"network": "resnet56"}, "visibility_direct", "0.3"),
        ("main", "tables/networks", {"network": "densenet121"}, "smallest", "-7.0"),
        ("demo", "tables/saddles", {"n_positive": "500"}, "visibility", "0.5"),
    ],
)
def test_other_numbers_mark_what_they_do_not_support(
    tree: Path, role: str, table: str, where: dict[str, str], column: str, value: str
) -> None:
    before = n_marked(tree)
    alter(tree / RUNS[role] / f"{table}.csv", where, column, value)
    assert n_marked(tree) > before


def test_a_network_without_a_row_is_left_out(tree: Path) -> None:
    for table in ("kinks", "apparent_curvature", "departure_radii", "gauss_newton"):
        (tree / RUNS["main"] / f"tables/{table}.csv").write_text("network\n")
    n_marked(tree)


def test_numbers_that_are_missing_mark_sentences_and_stop_nothing(tree: Path) -> None:
    """Of one table after the other, every number that is not whole."""
    for path in sorted((tree / RUNS["demo"] / "tables").glob("*.csv")):
        text = path.read_text()
        path.write_text(re.sub(r"(?<=,)-?\d+\.\d[^,\n]*", "", text))
        n_marked(tree)
        path.write_text(text)


def test_sentences_of_the_abstracts_are_quoted() -> None:
    """Each, up to where the words of the two differ."""
    words = " ".join(FLOATS.split())
    for claim, said in claims.CLAIMS.items():
        assert f"{claim}: [" in words
        if said.sentence and claim not in ("C3b", "C4c"):  # said to be another's
            assert said.sentence.partition(", on average")[0] in words, claim
    listed = re.findall(r"^  (C\d\w?): \[", FLOATS, re.MULTILINE)
    assert listed == list(claims.CLAIMS)


def test_figures_are_listed_and_drawn() -> None:
    used = re.findall(r'drawn\(\s*"(\w+)"(, run: demo)?', FLOATS)
    shown = yaml.safe_load((ROOT / "paper/figures.yaml").read_text())
    # The slices of both runs are one function.
    assert {name for name, run in used} == {*shown["main"], *shown["demo"]}
    assert {name for name, run in used if run} == set(shown["demo"]) - {"classifier_slices"}
    modules = (ROOT / "src/hessian_directions/reporting/figures").glob("*.py")
    known = set().union(*(declared(path, "FIGURES") or {} for path in modules))
    assert {*shown["main"], *shown["demo"]} <= known
    # Letters of seven points stay six points high.
    assert min(map(int, re.findall(r"size: (\d+)%\)", FLOATS))) >= 86


# The script of the rule, without Snakemake.


class Named(SimpleNamespace):
    """Named files or parameters, as Snakemake hands them to a script."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


def compile_paper(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    monkeypatch.setattr(sys, "path", [str(ROOT / "workflow/scripts"), *sys.path])
    job = SimpleNamespace(
        rule="compile_paper",
        input=Named(
            manuscript="paper/paper.typ",
            shown="paper/figures.yaml",
            configuration=f"{RUNS['demo']}/configuration.yaml",
            companion=f"{RUNS['main']}/manifest.sha256",
            power=[],
            replicates=[],
        ),
        output=Named(pdf="paper.pdf"),
        params=Named(role="demo", companion_role="main"),
        wildcards={},
        threads=1,
        config={},
        log=[],  # a log has one writer as long as a process lives
    )
    runpy.run_path(str(ROOT / "workflow/scripts/compile_paper.py"), init_globals={"snakemake": job})


def test_script_makes_the_same_paper_twice(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_paper(tree, monkeypatch)
    first = (tree / "paper.pdf").read_bytes()
    assert first.startswith(b"%PDF")
    compile_paper(tree, monkeypatch)
    assert (tree / "paper.pdf").read_bytes() == first


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("figures/spectra.pdf", "figures/spectra.pdf is missing, and paper/figures.yaml lists it"),
        ("tables/networks.csv", "paper/paper.typ cannot be compiled: file not found"),
    ],
)
def test_what_is_missing_is_named(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    missing: str,
    sentence: str,
) -> None:
    (tree / RUNS["main"] / missing).unlink()
    with pytest.raises(SystemExit):
        compile_paper(tree, monkeypatch)
    assert sentence in caplog.text
