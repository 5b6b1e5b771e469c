"""The real workflow on the tests' own smallest configuration, in clones of this repository."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from project import TINY, Project

from hessian_directions.analyses import registry
from hessian_directions.reporting.claims import CLAIMS
from hessian_directions.reproduction import artifacts

pytestmark = pytest.mark.workflow

ANALYSES = (*registry.OF_NETWORKS, *registry.OF_PROFILES)
COMPUTING = {
    *("train_network", "import_checkpoint"),
    *ANALYSES,
    *(f"{name}_shard" for name in ANALYSES if registry.analysis(name).is_sharded),
}
RESULTS = "results/computed/tiny"
# What PyTorch is told on a machine that has AVX-512, so that it computes as most laptops do.
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
ARTIFACTS = (".nc", ".safetensors")


def test_everything_is_made(computed: Project) -> None:
    results = computed.path / RESULTS
    claims = pd.read_csv(results / "claims.csv")
    assert list(claims["claim"]) == list(CLAIMS)
    assert set(claims["verdict"]) <= {"proved", "reproduced", "not reproduced", "inconclusive"}
    assert (results / "paper.pdf").read_bytes().startswith(b"%PDF")
    figures = {path.stem for path in (results / "figures").glob("*.pdf")}
    assert {"saddle_slices", "classifier_slices", "trajectory", "flatness"} <= figures
    assert figures == {path.stem for path in (results / "figures").glob("*.png")}


def test_nothing_left_to_do(computed: Project, tmp_path: Path) -> None:
    project = computed.copy(tmp_path / "project")
    shutil.rmtree(archived(project, ""))
    assert project.planned_rules("figures", config="source=compute") == set()


def test_archive_is_set_beside_what_became_it(
    computed: Project, project: Project, tmp_path: Path
) -> None:
    """In the report, by one run more; then nothing is left to do."""
    before = computed.copy(tmp_path / "before")
    planned = before.planned_jobs("figures", config="source=compute")
    assert planned == {"compare_with_archive": 1, "make_report": 1, "figures": 1}
    assert project.planned_rules("figures", config="source=compute") == set()


def test_archive_needs_no_computing(fresh_clone: Project) -> None:
    planned = fresh_clone.planned_rules("figures")
    assert planned
    assert not planned & COMPUTING
    # Nor are computing rules known at all, whatever is asked for.
    lines = fresh_clone.snakemake(options=("--list-rules",)).stdout.splitlines()
    listed = {line.split()[0] for line in lines if line.strip()}
    assert "draw_figure" in listed
    assert not listed & COMPUTING


def test_archive_is_drawn_without_torch(fresh_clone: Project, tmp_path) -> None:
    for package in ("torch", "torchvision", "timm"):
        (tmp_path / "poison" / package).mkdir(parents=True)
        (tmp_path / "poison" / package / "__init__.py").write_text(
            "raise ImportError('no torch here')"
        )
    path = os.pathsep.join([str(tmp_path / "poison"), str(fresh_clone.path / "src")])
    fresh_clone.snakemake("figures", PYTHONPATH=path)
    drawn = fresh_clone.path / "results/redrawn/tiny"
    archive = fresh_clone.path / "results/archive/tiny"
    assert (drawn / "claims.csv").read_bytes() == (archive / "claims.csv").read_bytes()
    assert (drawn / "paper.pdf").is_file()
    assert fresh_clone.run("git", "status", "--porcelain").stdout == ""
    assert planned_after_an_edited_figure(fresh_clone, "archive") == REDRAWN


def test_archive_of_other_settings_is_refused(fresh_clone: Project) -> None:
    done = fresh_clone.snakemake("figures", config="source=archive seed=2", check=False)
    assert done.returncode != 0
    assert "tiny.yaml: key 'seed' is 2, in results/archive/tiny/configuration.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_corrupt_archive_is_refused(fresh_clone: Project) -> None:
    name = "results/archive/tiny/networks/classifier/eigenpairs.nc"
    with (fresh_clone.path / name).open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\1\2\3")
    done = fresh_clone.snakemake("figures", check=False)
    assert done.returncode != 0
    sentence = f"hessian-directions: {name} is corrupt: its sha256 is not the one in"
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (fresh_clone.path / "results/redrawn").exists()


def test_corrupt_computed_artifact_is_named(project: Project) -> None:
    name = f"{RESULTS}/networks/classifier/visibility.nc"
    (project.path / name).write_bytes(b"not netCDF")
    done = project.snakemake(
        f"{RESULTS}/claims.csv",
        options=("--forcerun", "decide_claims"),
        config="source=compute",
        check=False,
    )
    assert done.returncode != 0
    assert f"{name} is corrupt" in done.stdout + done.stderr


def test_deleted_artifact_is_remade(project: Project) -> None:
    (project.path / RESULTS / "networks/classifier/spectrum.nc").unlink()
    planned = project.planned_rules("figures", config="source=compute")
    drawing = {"draw_figure", "make_tables", "compile_paper", "make_report"}
    # Verdicts are not decided by it; the comparison reads the tables.
    assert planned == {"spectrum", *drawing, "compare_with_archive", "figures"}


def test_more_files_leave_those_that_are_there(project: Project) -> None:
    path = project.path / TINY
    text = path.read_text()
    for old, new in (
        ("n_planes: 10, n_shards: 2", "n_planes: 10, n_shards: 3"),
        ("n_images: [50, 100], tolerance", "n_images: [50, 70, 100], tolerance"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    planned = project.planned_jobs("figures", config="source=compute")
    assert {rule: n for rule, n in planned.items() if rule in COMPUTING} == {
        "visibility_shard": 2,
        "visibility": 2,
        "image_counts": 1,
    }


@pytest.mark.parametrize(
    ("module", "computing"),
    [
        ("analyses/spectrum.py", {"spectrum"}),
        ("statistics/rank_correlation.py", {"population"}),
        # What is made from a stage's artifact follows it.
        ("geometry/flatness.py", {"population_shard", "population"}),
        ("reporting/figures/spectra.py", set()),
        ("reporting/tables.py", set()),
    ],
)
def test_edited_module_reruns_its_stages(
    project: Project, module: str, computing: set[str]
) -> None:
    path = project.path / "src/hessian_directions" / module
    path.write_text(path.read_text() + "\n# An edit.\n")
    planned = project.planned_rules("figures", config="source=compute")
    assert planned & COMPUTING == computing


REDRAWN = {"draw_figure": 1, "compile_paper": 1}


def test_edited_figure_is_redrawn_alone(project: Project) -> None:
    """Of the archive, too: see `test_archive_is_drawn_without_torch`, which has drawn it."""
    assert planned_after_an_edited_figure(project, "compute") == REDRAWN


def planned_after_an_edited_figure(project: Project, source: str) -> dict[str, int]:
    path = project.path / "src/hessian_directions/reporting/figures/flatness.py"
    path.write_text(path.read_text() + "\n# An edit.\n")
    planned = project.planned_jobs("figures", config=f"source={source}")
    # They make nothing: they gather.
    return {rule: n for rule, n in planned.items() if rule not in ("figures", "draw_figures")}


def test_failing_figure_names_itself(project: Project) -> None:
    path = project.path / "src/hessian_directions/reporting/figures/flatness.py"
    path.write_text(path.read_text() + "\n\ndef draw(population):\n    raise KeyError('oh')\n")
    drawn = project.path / "results/redrawn/tiny/figures"
    names = {
        f"{figure}.{kind}" for figure in ("lines", "spectra", "kinks") for kind in ("pdf", "png")
    }
    wanted = [f"results/redrawn/tiny/figures/{name}" for name in (*names, "flatness.pdf")]
    done = project.snakemake(*wanted, options=("--keep-going",), check=False)
    assert done.returncode != 0
    assert "draw_figure (figure=flatness) failed" in done.stderr
    assert "KeyError: 'oh'" in done.stderr
    # It fails alone: whatever else a worker drew before and after is there.
    assert {path.name for path in drawn.iterdir()} == names


def test_core_edit_reruns_all_curvature(project: Project) -> None:
    path = project.path / "src/hessian_directions/objectives/objective.py"
    path.write_text(path.read_text() + "\n# An edit.\n")
    planned = project.planned_rules("figures", config="source=compute")
    assert {"eigenpairs", "visibility_shard", "slices_shard", "population_shard"} <= planned


def test_two_runs_give_equal_bits(project: Project) -> None:
    suffixes = ARTIFACTS
    network = f"{RESULTS}/networks/classifier"
    before = project.checksums(network, suffixes=suffixes)
    (project.path / network / "checkpoint.safetensors").unlink()
    (project.path / network / "eigenpairs.nc").unlink()
    project.snakemake(f"{network}/eigenpairs.nc", config="source=compute")
    after = project.checksums(network, suffixes=suffixes)
    for name in (
        "checkpoint.safetensors",
        "history.nc",
        "eigenpairs.nc",
        "eigenvectors.safetensors",
    ):
        assert after[name] == before[name], name
    assert not list((project.path / network).glob("*.state")) + list(
        (project.path / network).glob(".*.nc")
    )


def test_killed_run_finishes_with_the_same_numbers(project: Project) -> None:
    network = f"{RESULTS}/networks/classifier"
    before = project.checksums(network, suffixes=ARTIFACTS)
    shutil.rmtree(project.path / network)
    command = f"snakemake --configfile {TINY} --config source=compute --cores 2 --"
    process = subprocess.Popen(
        [*command.split(), f"{network}/eigenpairs.nc"],
        cwd=project.path,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    log = project.path / "logs/tiny/train_network/classifier.log"
    log.unlink(missing_ok=True)
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (project.path / network / "eigenpairs.nc").exists()
    project.snakemake(f"{network}/eigenpairs.nc", config="source=compute")
    after = project.checksums(network, suffixes=ARTIFACTS)
    assert after["checkpoint.safetensors"] == before["checkpoint.safetensors"]
    assert after["eigenpairs.nc"] == before["eigenpairs.nc"]


def test_reproduce_compares_with_the_archive(project: Project) -> None:
    project.snakemake("reproduce", config="source=compute")
    comparison = pd.read_csv(project.path / RESULTS / "comparison.csv")
    assert comparison["agrees"].all()
    assert set(comparison["within"]) == {"rounding"}
    assert len(comparison) > 100
    summary = (project.path / RESULTS / "comparison.txt").read_text()
    assert "This machine reproduced the published numbers" in summary
    # With another seed there is nothing to compare with, and no earlier comparison is taken for one.
    project.snakemake(f"{RESULTS}/comparison.txt", config="source=compute seed=5")
    summary = (project.path / RESULTS / "comparison.txt").read_text()
    assert summary == "Nothing was compared: results/archive/tiny does not hold these settings.\n"
    assert project.run("git", "status", "--porcelain").stdout == ""


def archived(project: Project, name: str) -> Path:
    return project.path / "results/archive/tiny" / name


def with_replicates(project: Project, column: str) -> None:
    """Five replicates that are the archive's tables, but for a column."""
    for seed in range(2, 7):
        for path in archived(project, "tables").glob("*.csv"):
            table = pd.read_csv(path)
            if column in table:
                table[column] *= 1 + 0.05 * (seed - 4)
            artifacts.write_table(archived(project, f"replicates/{seed}/tables/{path.name}"), table)


def test_other_networks_are_judged_by_replicates(project: Project) -> None:
    """The archive's weights are changed: what is trained here are others."""
    path = archived(project, "networks/classifier/checkpoint.safetensors")
    weights = artifacts.read_tensors(path)
    next(iter(weights.values())).flat[0] += 1e-3
    artifacts.write_tensors(path, weights, {})
    project.snakemake("reproduce", config="source=compute")
    alone = (project.path / RESULTS / "comparison.txt").read_text()
    assert "(classifier) and are NOT judged" in alone
    ends = []
    for factor in (1.02, 100.0):
        path = archived(project, "tables/networks.csv")
        numbers = pd.read_csv(path)
        numbers.loc[1, "theta_norm"] *= factor
        artifacts.write_table(path, numbers)
        with_replicates(project, "theta_norm")
        project.snakemake("reproduce", config="source=compute")
        ends.append((project.path / RESULTS / "comparison.txt").read_text().splitlines())
    assert "reproduced the published numbers" in ends[0][-1]
    assert any("other networks than the archive's (classifier)" in line for line in ends[0])
    assert ends[1][1].startswith("  networks.theta_norm classifier: ")
    assert "did NOT reproduce" in ends[1][-1]


def test_recompute_trains_nothing_and_notices_a_wrong_number(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the archive's weights alone, as a processor without AVX-512 does, whether or not this one has it.

    What was computed here before is gone.
    """
    shutil.rmtree(project.path / "results/computed")
    planned = project.planned_rules("recompute", config="source=recompute")
    assert not planned & {"train_network", "import_checkpoint", "population_shard", "population"}
    assert not planned & {"passes", "draw_figure", "compile_paper"}
    project.snakemake("recompute", config="source=recompute", **AVX2)
    recomputed = project.path / "results/recomputed/tiny"
    text = (recomputed / "comparison.txt").read_text()
    with capsys.disabled():
        print(f"\n{text}")
    assert "This machine recomputed" in text
    both = [
        (path, recomputed / path.relative_to(archived(project, "")))
        for path in sorted(archived(project, "").rglob("*.nc"))
    ]
    both = [pair for pair in both if pair[1].exists()]
    assert len(both) > 20
    for pair in both:
        found = finite_in_one_alone(*map(artifacts.read_dataset, pair))
        assert not found, f"{pair[0]}: {found}"
    power = pd.read_csv(recomputed / "comparison_power.csv").set_index(["kind", "change"])
    assert power.loc[("all", "5 %"), "noticed"] > 0.5
    path = archived(project, "tables/networks.csv")
    numbers = pd.read_csv(path)
    numbers.loc[0, "trace"] *= 1 + 1e-6
    artifacts.write_table(path, numbers)
    artifacts.write_manifest(archived(project, ""))
    project.snakemake("recompute", config="source=recompute")
    text = (recomputed / "comparison.txt").read_text()
    assert text.splitlines()[1].startswith("  networks.trace approximator: ")
    assert "did NOT recompute" in text


def finite_in_one_alone(one: xr.Dataset, other: xr.Dataset) -> list[str]:
    """The variables that have a number in one dataset where the other has none."""
    names = [name for name, variable in one.variables.items() if variable.dtype.kind == "f"]
    return [
        str(name)
        for name in names
        if one[name].shape != other[name].shape
        or not np.array_equal(np.isfinite(one[name]), np.isfinite(other[name]))
    ]


def test_a_number_that_only_one_machine_has_is_found() -> None:
    one = xr.Dataset({"a": ("x", [1.0, np.nan]), "b": ("x", [1.0, 2.0]), "n": ("x", [1, 2])})
    assert finite_in_one_alone(one, one.assign(b=("x", [3.0, 4.0]))) == []
    assert finite_in_one_alone(one, one.assign(b=("x", [1.0, np.inf]))) == ["b"]
    assert finite_in_one_alone(one.assign(b=("x", [1.0, np.nan])), one) == ["b"]


def test_a_replicate_is_another_seed(project: Project) -> None:
    planned = project.planned_rules("replicate", config="source=replicate seed=2")
    assert {"train_network", "population", "make_tables", "record_replicate"} <= planned
    assert not planned & {"passes", "draw_figure", "compile_paper"}


# A worked example: CONTRIBUTING tells it, and these are all the files that it touches.

SHARE = '''"""The share of the trace that the largest eigenvalue is."""

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Positive, setting

READS = ("eigenpairs", "trace")


class Settings(typed.Settings):
    scale: Positive = setting(1.0, "factor of the share")


def run(problem, settings, job):
    largest = job.read["eigenpairs"]["value"][-1]
    return xr.Dataset({"share": settings.scale * largest / job.read["trace"]["trace"]})
'''
FIGURE = '''"""The share of the trace, a bar for each network."""

from matplotlib.figure import Figure

from hessian_directions.reporting.figures.drawing import styled

FIGURES = {
    "share": {
        "title": "Share of the trace",
        "category": "6. Spectra and visibility",
        "reads": {"shares": "share"},
        "caption": "λ_max over the trace.",
    },
}


@styled
def draw(shares, labels):
    figure = Figure()
    figure.subplots().bar([labels[name] for name in shares], [one["share"] for one in shares.values()])
    return figure
'''
CLAIM = """

@_judges("C9", "λ_max/t", "above", false="it is none of it")
def most(evidence, rule):
    for network, dataset in evidence.share.items():
        share = float(dataset["share"])
        found = intervals.fixed(share, share)
        none = _surely(intervals.fixed(0.0, 0.0))
        yield Row(network, share, found, f"networks/{network}/share.nc", none)
"""
# file, a line of it, and what is written before that line
EDITS = [
    ("src/hessian_directions/analyses/registry.py", '    "passes",\n', '    "share",\n'),
    (
        "src/hessian_directions/reporting/claims.py",
        "}\n\n\n@dataclass",
        '    "C9": Claim("The largest eigenvalue is most of the trace"),\n',
    ),
    (
        "src/hessian_directions/reporting/claims.py",
        "\n\n# What statistics are read from.",
        "    share: Mapping[str, xr.Dataset] = field(default_factory=dict)\n",
    ),
    ("config/claims.yaml", "C8a:\n", "C9:\n  most: {threshold: 0.5}\n"),
]


def test_an_analysis_a_figure_and_a_claim_are_added(project: Project) -> None:
    project.commit("before")
    source = project.path / "src/hessian_directions"
    (source / "analyses/share.py").write_text(SHARE)
    (source / "reporting/figures/share.py").write_text(FIGURE)
    for name, line, new in EDITS:
        text = (project.path / name).read_text()
        assert text.count(line) == 1
        (project.path / name).write_text(text.replace(line, new + line))
    with (source / "reporting/claims.py").open("a") as file:
        file.write(CLAIM)
    touched = project.run("git", "status", "--porcelain").stdout.splitlines()
    assert len(touched) == 2 + 1 + 2  # the analysis, the figure, the claim
    path = project.path / TINY
    text = path.read_text()
    path.write_text(text.replace("      - trajectory\n", "      - trajectory\n      - share\n"))
    targets = [f"{RESULTS}/{made}" for made in ("figures/share.png", "claims.csv")]
    planned = project.planned_jobs(*targets, config="source=compute")
    assert planned == {"share": 1, "draw_figure": 1, "decide_claims": 1}
    project.snakemake(*targets, config="source=compute")
    claims = pd.read_csv(project.path / targets[1]).set_index("claim")
    pairs, trace = (
        artifacts.read_dataset(project.path / RESULTS / f"networks/classifier/{name}.nc")
        for name in ("eigenpairs", "trace")
    )
    expected = float(pairs["value"][-1] / trace["trace"])
    assert claims.loc["C9", "estimate"] == pytest.approx(expected)
