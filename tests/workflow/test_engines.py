"""The same workflow by other executors, with results elsewhere, and through a real one-node Slurm.

In one file, since the files with most tests are begun first, and Slurm, which mostly waits, must not be last.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from project import ROOT, TINY, Project

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


# Slurm: what is asked for, and a cluster of this machine alone that gives the numbers of a local run.

PROFILE = "workflow/profiles/slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ARTIFACTS = (".nc", ".safetensors")
ANNOUNCEMENT = "hessian_directions.reproduction.announcement"
# Two networks that read each other's weights, shards, and no companion: it ends in the page.
TWO_NETWORKS = """
profile: cluster
data:
  digits: {kind: digits, n_test: 1597, seed: 0}
networks:
  one: &network
    model: {name: mlp, options: {width: 4, hidden_layers: 1}}
    training: {epochs: 2, batch_size: 50}
    n_images: 50
    analyses: [scores, eigenpairs, slices, interpolation]
    overrides: {interpolation: {others: [two]}}
  two: {<<: *network, seed: 1, analyses: [scores], overrides: {}}
analyses:
  eigenpairs: {tolerance: 0.1, max_products: 60}
  slices: {planes: [hessian], n_points: 3, n_shards: 2}
  interpolation: {n_points: 3}
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.clone(tmp_path_factory.mktemp("cluster") / "project")
    (project.path / "cluster.yaml").write_text(TWO_NETWORKS)
    # Only what was measured is known to be small.
    project.run("python", "-m", ANNOUNCEMENT, "cluster.yaml")
    return project


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of this machine alone, or a skipped test."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        packages = "slurm-wlm slurm-client munge"
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}): apt-get install {packages}")
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm")
    if Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("this machine has a Slurm already: /etc/slurm/slurm.conf")
    folder = str(tmp_path_factory.mktemp("slurm"))
    script = str(ROOT / PROFILE / "one_node.sh")
    subprocess.run([script, "start", folder], check=True, stdout=subprocess.DEVNULL)
    yield
    subprocess.run([script, "stop", folder], check=True)


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def submissions(state: str) -> list[str]:
    """Slurm's numbers of all jobs in a state."""
    return output_of("squeue", "--noheader", "--format=%i", f"--states={state}").split()


def wait_for(happened: Callable[[], object], run: subprocess.Popen, seconds: float = 600) -> None:
    """Until something has happened, while a run goes on."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert run.poll() is None, f"the run ended with {run.returncode}"
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.2)


def options_of(configfile: str) -> list[str]:
    return [
        *("--workflow-profile", PROFILE, "--configfile", configfile),
        *("--config", "source=compute"),
        # One node with two cores that nobody else waits for.
        *("--cores", "2", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"),
    ]


def disturbed_run(project: Project, configfile: str, made: Path) -> list[list[str]]:
    """Run through Slurm; once a file is made the node is drained, what runs is cancelled, and the node comes back.

    Returns:
        The jobs that were cancelled, and those that had run to their end.
    """
    node = os.uname().nodename.split(".")[0]
    log = project.path.parent / "slurm.log"
    with log.open("w") as file:
        run = subprocess.Popen(
            ["snakemake", *options_of(configfile), "--", "figures"],
            cwd=project.path,
            env=project.environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(made.exists, run)
        subprocess.run(
            ["scontrol", "update", f"nodename={node}", "state=drain", "reason=test"], check=True
        )
        cancelled = submissions("RUNNING")
        assert cancelled
        subprocess.run(["scancel", *cancelled], check=True)
        # It is submitted once more, and waits for the node.
        wait_for(lambda: submissions("PENDING"), run)
        time.sleep(3)
        assert not submissions("RUNNING")
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=True)
        assert run.wait(timeout=3000) == 0, log.read_text()[-8000:]
    finally:
        run.terminate()
        run.wait()
        subprocess.run(
            ["scontrol", "update", f"nodename={node}", "state=resume"], capture_output=True
        )
    return [cancelled, submissions("COMPLETED")]


def test_slurm_is_asked_for_what_jobs_need(two: Project) -> None:
    target = "results/computed/cluster/networks/one/checkpoint.safetensors"

    def asked(attempt: str) -> dict[str, str]:
        """Of training, by name."""
        options = (*options_of("cluster.yaml"), "--attempt", attempt, "--dry-run")
        lines = two.run("snakemake", *options, "--", target).stdout.splitlines()
        text = next(line for line in lines if line.strip().startswith("resources: "))
        return dict(pair.split("=") for pair in text.split("resources: ")[1].split(", "))

    first, again = asked("1"), asked("2")
    assert first["slurm_partition"] == "main"
    assert "gpu" not in first
    for name in ("mem_mb", "runtime"):
        assert int(again[name]) == 2 * int(first[name]) > 0


def test_slurm_gives_the_numbers_of_a_local_run(two: Project, slurm: None) -> None:
    results = "results/computed/cluster"
    two.snakemake("figures", configfile="cluster.yaml", config="source=compute")
    expected = two.checksums(results, suffixes=ARTIFACTS)
    assert {"networks/one/interpolation.nc", "networks/one/slices/hessian.nc"} <= set(expected)
    shutil.rmtree(two.path / results / "networks")
    made = two.path / results / "networks/one/checkpoint.safetensors"
    cancelled, completed = disturbed_run(two, "cluster.yaml", made)
    assert two.checksums(results, suffixes=ARTIFACTS) == expected
    assert (two.path / results / "report.html").exists()
    # The jobs of both networks are one submission; what waits for both is another.
    assert (len(cancelled), len(completed)) == (1, 2)


@pytest.mark.long
def test_slurm_runs_everything(project: Project, slurm: None) -> None:
    results = "results/computed/tiny"
    expected = project.checksums(results, suffixes=(*ARTIFACTS, "claims.csv"))
    shutil.rmtree(project.path / results)
    project.run("python", "-m", ANNOUNCEMENT, TINY)
    disturbed_run(project, TINY, project.path / results / "networks/classifier/eigenpairs.nc")
    assert project.checksums(results, suffixes=(*ARTIFACTS, "claims.csv")) == expected
    assert (project.path / results / "paper.pdf").read_bytes().startswith(b"%PDF")
