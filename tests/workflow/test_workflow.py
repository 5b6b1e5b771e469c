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
import yaml
from PIL import Image
from project import ROOT, TINY, Project

from hessian_directions.reproduction import artifacts

pytestmark = pytest.mark.workflow

COMPUTING = {
    "train_network",
    "import_checkpoint",
    "measure_network",
    "find_eigenpairs",
    "sample_projections",
    "estimate_reference_trace",
    "study_projections",
    "compare_traces",
    "study_step_sizes",
    "estimate_spectrum",
    "evaluate_surface",
    "gather_surface",
    "evaluate_profiles",
    "survey_planes",
    "track_curvature",
    "vary_images",
    "time_passes",
    "analyze_saddles",
    "compare_saddle_traces",
    "train_population",
    "gather_population",
}
RESULTS = "results/computed/tiny"
ARTIFACTS = (".nc", ".safetensors")


def test_everything_is_made(computed: Project) -> None:
    results = computed.path / RESULTS
    claims = pd.read_csv(results / "claims.csv")
    assert list(claims["claim"]) == [f"C{i}" for i in range(1, 9)]
    assert set(claims["verdict"]) <= {"reproduced", "not reproduced", "inconclusive"}
    assert (results / "paper.pdf").read_bytes().startswith(b"%PDF")
    figures = {path.stem for path in (results / "figures").glob("*.pdf")}
    assert {"saddle_slices", "classifier_slices", "trajectory", "flatness"} <= figures
    assert figures == {path.stem for path in (results / "figures").glob("*.png")}


def test_nothing_left_to_do(computed: Project) -> None:
    assert computed.planned_rules("figures", config="source=compute") == set()


def test_archive_needs_no_computing(fresh_clone: Project) -> None:
    planned = fresh_clone.planned_rules("figures")
    assert planned
    assert not planned & COMPUTING
    # Nor are computing rules known at all, whatever is asked for.
    listed = fresh_clone.snakemake(options=("--list-rules",)).stdout.split()
    assert "draw_figure" in listed
    assert not set(listed) & COMPUTING


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
    name = f"{RESULTS}/networks/classifier/projections.nc"
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
    assert planned & COMPUTING == {"estimate_spectrum"}
    assert {"draw_figure", "make_tables", "compile_paper"} >= planned - {
        "estimate_spectrum",
        "draw_figures",
        "figures",
    }


def test_more_files_leave_those_that_are_there(project: Project) -> None:
    path = project.path / TINY
    text = path.read_text()
    for old, new in (
        ("n_samples: 10, n_shards: 2", "n_samples: 10, n_shards: 3"),
        ("n_images: [50, 100], tolerance", "n_images: [50, 70, 100], tolerance"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    planned = project.planned_jobs("figures", config="source=compute")
    n_networks = len(yaml.safe_load(text)["analyses"]["projections"]["networks"])
    assert {rule: n for rule, n in planned.items() if rule in COMPUTING} == {
        "sample_projections": n_networks,
        "study_projections": n_networks,
        "vary_images": 1,
    }


@pytest.mark.parametrize(
    ("module", "computing"),
    [
        ("spectrum.py", {"estimate_spectrum"}),
        ("rank_correlation.py", {"gather_population"}),
        # What is made from a stage's artifact follows it.
        ("flatness.py", {"train_population", "gather_population"}),
        ("figures/spectra.py", set()),
        ("tables.py", set()),
    ],
)
def test_edited_module_reruns_its_stages(
    project: Project, module: str, computing: set[str]
) -> None:
    path = project.path / "src/hessian_directions" / module
    path.write_text(path.read_text() + "\n# An edit.\n")
    planned = project.planned_rules("figures", config="source=compute")
    assert planned & COMPUTING == computing


@pytest.mark.parametrize("source", ["archive", "compute"])
def test_edited_figure_is_redrawn_alone(project: Project, source: str) -> None:
    config = f"source={source}"
    if source == "archive":
        project.snakemake("figures", config=config)
    path = project.path / "src/hessian_directions/reporting/figures/flatness.py"
    path.write_text(path.read_text() + "\n# An edit.\n")
    planned = project.planned_jobs("figures", config=config)
    planned.pop("figures")
    # `draw_figures` draws nothing: it gathers.
    planned.pop("draw_figures", None)
    assert planned == {"draw_figure": 1, "compile_paper": 1}


def test_failing_figure_names_itself(project: Project) -> None:
    path = project.path / "src/hessian_directions/reporting/figures/flatness.py"
    path.write_text(path.read_text() + "\n\ndef draw(population):\n    raise KeyError('oh')\n")
    done = project.snakemake("figures", options=("--keep-going",), check=False)
    assert done.returncode != 0
    assert "draw_figure (figure=flatness) failed" in done.stderr
    assert "KeyError: 'oh'" in done.stderr
    # It fails alone: whatever else a worker drew before and after is there.
    drawn = project.path / "results/redrawn/tiny/figures"
    archived = project.path / "results/archive/tiny/figures"
    names = {path.name for path in archived.iterdir()}
    assert {path.name for path in drawn.iterdir()} == names - {"flatness.pdf", "flatness.png"}


def test_core_edit_reruns_all_curvature(project: Project) -> None:
    path = project.path / "src/hessian_directions/objectives/objective.py"
    path.write_text(path.read_text() + "\n# An edit.\n")
    planned = project.planned_rules("figures", config="source=compute")
    assert {
        "find_eigenpairs",
        "sample_projections",
        "evaluate_surface",
        "train_population",
    } <= planned


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
    command = [
        "snakemake",
        "--configfile",
        TINY,
        "--config",
        "source=compute",
        "--cores",
        "2",
        "--",
    ]
    process = subprocess.Popen(
        [*command, f"{network}/eigenpairs.nc"],
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
    assert {"quantity", "published", "computed", "tolerance", "agrees"} <= set(comparison)
    assert comparison["agrees"].all()
    assert len(comparison) > 100
    summary = (project.path / RESULTS / "comparison.txt").read_text()
    assert "This machine reproduced all" in summary
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_numbers_of_other_networks_do_not_fail(project: Project) -> None:
    """What `make reproduce` does with them; a number without training fails as before."""
    archive = project.path / "results/archive/tiny"
    checkpoint = archive / "networks/classifier/checkpoint.safetensors"
    weights = artifacts.read_tensors(checkpoint)
    next(iter(weights.values())).flat[0] += 1e-3
    artifacts.write_tensors(checkpoint, weights, {})
    ends = {}
    for table, column in (("networks", "loss"), ("saddles", "r")):
        path = archive / f"tables/{table}.csv"
        numbers = pd.read_csv(path)
        numbers.loc[1, column] += 1
        artifacts.write_table(path, numbers)
        project.snakemake("reproduce", config="source=compute")
        ends[table] = (project.path / RESULTS / "comparison.txt").read_text().splitlines()[-3:]
    assert "than in the archive: 1 of 2." in ends["networks"][0]
    assert ends["networks"][1].startswith("1 numbers measured on those networks are outside")
    assert ends["networks"][2].startswith("This machine reproduced the other ")
    assert ends["saddles"][1].startswith("  saddles.r ")
    assert "did NOT reproduce everything: 1 of" in ends["saddles"][2]


def test_slurm_profile(project: Project) -> None:
    def planned(device: str) -> str:
        return project.run(
            "snakemake",
            "--workflow-profile",
            "workflow/profiles/slurm",
            "--configfile",
            TINY,
            "--config",
            "source=compute",
            f"device={device}",
            "--dry-run",
            "--forceall",
            "--",
            "figures",
        ).stdout

    assert "slurm_partition=main" in planned("cpu")
    assert "gpu=1" in planned("cuda")
    assert "gpu=1" not in planned("cpu")


ARCHITECTURES = {
    "resnet_projection": {
        "name": "resnet",
        "options": {"depth": 8, "width": 2, "shortcut": "projection"},
    },
    "resnet_none": {"name": "resnet", "options": {"depth": 8, "width": 2, "shortcut": "none"}},
    "densenet_small": {"name": "densenet", "options": {"growth_rate": 2, "blocks": [1, 1]}},
    "perceptron": {
        "name": "mlp",
        "options": {"width": 4, "hidden_layers": 1, "activation": "tanh"},
    },
    "from_timm": {
        "name": "timm:vit_tiny_patch16_224",
        "options": {
            "img_size": 8,
            "patch_size": 4,
            "embed_dim": 6,
            "depth": 1,
            "num_heads": 2,
            "in_chans": 1,
        },
    },
    "from_torchvision": {"name": "torchvision:shufflenet_v2_x0_5", "options": {}},
    "own_function": {"name": "own_networks:small_network", "options": {"width": 4}},
}
OWN_NETWORK = '''
from torch import nn


def small_network(*, input_shape, n_outputs, width):
    """LayerNorm, and shared, frozen and unused parameters."""
    return Small(input_shape, n_outputs, width)


class Small(nn.Module):
    def __init__(self, input_shape, n_outputs, width):
        super().__init__()
        n_inputs = input_shape[0] * input_shape[1] * input_shape[2]
        self.frozen = nn.Linear(n_inputs, width)
        self.frozen.requires_grad_(False)
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.again = self.inner
        self.unused = nn.Linear(3, 2)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, images):
        x = self.norm(self.frozen(images.flatten(1)))
        x = nn.functional.silu(self.inner(x))
        return self.head(nn.functional.gelu(self.again(x)))
'''


def write_image_folder(folder: Path) -> None:
    """Two classes of ten random colour images for training, and two images of each for testing."""
    generator = np.random.default_rng(0)
    for split, n_images in (("train", 10), ("test", 2)):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for number in range(n_images):
                pixels = generator.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")


def test_new_architectures_are_configuration_entries(computed: Project, tmp_path) -> None:
    """One of each kind, LayerNorm and attention among them, through training, scores and eigenpairs."""
    project = Project(tmp_path / "project")
    shutil.copytree(computed.path, project.path, symlinks=True)
    (project.path / "src/own_networks.py").write_text(OWN_NETWORK)
    configuration = yaml.safe_load((ROOT / TINY).read_text())
    entry = configuration["networks"]["classifier"]
    training = {"epochs": 1, "batch_size": 100, "learning_rate": 0.01}
    for name, model in ARCHITECTURES.items():
        configuration["networks"][name] = entry | {
            "label": name,
            "model": model,
            "training": training,
            "n_images": 20,
        }
    # torchvision's classifiers want three channels.
    write_image_folder(tmp_path / "images")
    configuration["data"]["images"] = {"kind": "image_folder", "path": str(tmp_path / "images")}
    configuration["networks"]["from_torchvision"]["data"] = "images"
    configuration["analyses"]["eigenpairs"]["max_products"] = 60
    (project.path / "own.yaml").write_text(yaml.safe_dump(configuration))
    targets = [
        f"{RESULTS}/networks/{name}/{artifact}"
        for name in configuration["networks"]
        for artifact in ("measurements.nc", "eigenpairs.nc")
    ]
    project.snakemake(*targets, configfile="own.yaml", config="source=compute")
    for target in targets:
        assert (project.path / target).is_file()
    with (project.path / "src/own_networks.py").open("a") as file:
        file.write("\n# An edit.\n")
    planned = project.planned_jobs(*targets, configfile="own.yaml", config="source=compute")
    assert planned["train_network"] == 1
    assert planned["find_eigenpairs"] == 1
