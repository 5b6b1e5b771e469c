"""The same workflow by other executors, and with results on another file system than the clone."""

import shlex
import shutil
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.workflow

# One network is enough: what differs is how its jobs are started, and where its files are.
CONFIGURATION = """
profile: engines
data:
  digits: {kind: digits, n_test: 1597, seed: 0}
networks:
  one:
    model: {name: mlp, options: {width: 4, hidden_layers: 1}}
    training: {epochs: 1, batch_size: 50}
    n_images: 50
    analyses: [scores, eigenpairs, slices]
analyses:
  slices: {planes: [random], n_points: 3, n_shards: 2}
"""
RESULTS = "results/computed/engines"
# A job that is submitted, and one that runs where the workflow does.
TARGETS = (f"{RESULTS}/networks/one/checkpoint.safetensors", f"{RESULTS}/configuration.yaml")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.clone(tmp_path_factory.mktemp("engines") / "project")
    (project.path / "engines.yaml").write_text(CONFIGURATION)
    return project


@pytest.mark.parametrize("engine", ["kubernetes", "cluster-generic", "slurm"])
def test_engines_plan_the_same_jobs(bare: Project, engine: str) -> None:
    profile = ("--workflow-profile", f"workflow/profiles/{engine}")
    options = ("--configfile", "engines.yaml", "--config", "source=compute", "device=cuda")
    command = ("snakemake", *profile, *options, "--forceall", "--dry-run", "--", "figures")
    lines = bare.run(*command).stdout.splitlines()
    jobs = dict(line.split() for line in lines if len(line.split()) == 2)
    assert {name: jobs[name] for name in ("train_network", "slices_shard", "slices")} == {
        "train_network": "1",
        "slices_shard": "2",
        "slices": "1",
    }
    # Training, scores, eigenpairs and both shards; gathering needs none.
    asked = [line for line in lines if line.strip().startswith("resources: ")]
    assert sum("gpu=1" in line.split(", ") for line in map(str.strip, asked)) == 5


def test_jobs_are_submitted_by_any_command(bare: Project) -> None:
    submit = "sh -c 'nohup \"$0\" >> submitted.log 2>&1 & echo $!'"
    profile = ("--workflow-profile", "workflow/profiles/cluster-generic")
    options = ("--configfile", "engines.yaml", "--config", "source=compute")
    other = ("--cluster-generic-submit-cmd", submit, "--latency-wait", "30")
    bare.run("snakemake", *profile, *options, *other, "--", *TARGETS)
    assert all((bare.path / target).exists() for target in TARGETS)
    submitted = (bare.path / "submitted.log").read_text()
    assert "rule train_network" in submitted
    assert "record_configuration" not in submitted


def test_results_on_another_file_system(bare: Project, tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed, which Snakemake's storage plugin calls")
    shutil.rmtree(bare.path / "results", ignore_errors=True)
    shutil.rmtree(bare.path / "logs", ignore_errors=True)
    elsewhere = tmp_path / "elsewhere"
    command = f"""snakemake --configfile engines.yaml --config source=compute --cores 2
        --default-storage-provider fs --default-storage-prefix {shlex.quote(str(elsewhere))}
        --shared-fs-usage persistence software-deployment sources source-cache --"""
    bare.run(*shlex.split(command), *TARGETS)
    assert all((elsewhere / target).exists() for target in TARGETS)
    # In the clone there is the folder that a run holds, and nothing in it.
    assert not any(path.is_file() for path in (bare.path / "results").rglob("*"))
    # And there they are found again.
    done = bare.run(*shlex.split(command), *TARGETS)
    assert "Nothing to be done" in done.stdout + done.stderr
