"""Jobs in several processes: their artifacts are those of one, their errors one sentence."""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from project import Project
from safetensors.numpy import load_file
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, Snakemake, Wildcards

from hessian_directions.reproduction import artifacts

pytestmark = pytest.mark.workflow

CONFIGURATION = """
profile: pair
precision: float64
data:
  function: {kind: function, n_train: 21, n_test: 50, seed: 0}
networks:
  net:
    model: {name: mlp, options: {width: 6, hidden_layers: 2, activation: tanh}}
    training: {epochs: 30, batch_size: null, learning_rate: 0.1}
analyses:
  eigenpairs: {tolerance: 1.0e-6, steps: [0.1]}
  trace: {n_sketch: 2, n_samples: 20, n_shards: 2}
"""
RESULTS = "results/computed/pair/networks/net"
MADE = ("eigenpairs", "trace")


@pytest.fixture(scope="module")
def small(bare: Project) -> Project:
    (bare.path / "pair.yaml").write_text(CONFIGURATION)
    return bare


def make(project: Project, processes: int) -> str:
    done = project.snakemake(
        *(f"{RESULTS}/{name}.nc" for name in MADE),
        configfile="pair.yaml",
        config=f"source=compute processes={processes}",
    )
    return done.stdout + done.stderr


def read(project: Project) -> tuple[dict[str, xr.Dataset], np.ndarray]:
    folder = project.path / RESULTS
    vectors = load_file(folder / "eigenvectors.safetensors")["vectors"]
    return {name: artifacts.read_dataset(folder / f"{name}.nc") for name in MADE}, vectors


def test_distributed_artifacts_are_those_of_one_process(small: Project) -> None:
    make(small, 1)
    alone, vectors = read(small)
    said = make(small, 2)
    together, others = read(small)
    np.testing.assert_allclose(others, vectors, atol=1e-5)
    for name, expected in alone.items():
        assert set(together[name]) == set(expected)
        for variable in expected:
            found, wanted = together[name][variable].values, expected[variable].values
            if np.issubdtype(wanted.dtype, np.number):
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9, err_msg=variable)
    # The same jobs, each in two processes, and no training.
    assert "eigenpairs" in said
    assert "train_network" not in said
    for name in MADE:
        kept = artifacts.read_provenance(small.path / RESULTS / f"{name}.nc")["configuration"]
        assert kept["processes"] == 2
        assert (small.path / RESULTS / f"{name}.run.json").is_file()
    assert not list(small.path.rglob("*.state"))


def test_gathered_artifact_says_how_its_shards_were_computed(small: Project) -> None:
    small.snakemake(
        f"{RESULTS}/trace.nc", configfile="pair.yaml", config="source=compute precision=float32"
    )
    assert artifacts.read_provenance(small.path / RESULTS / "trace.nc")["precision"] == "float32"


SCRIPT = """
import os, signal
import torch
from processes import run_in_processes
from stage import stage

from hessian_directions.objectives.processes import Processes

run_in_processes(snakemake, __file__)

with stage(snakemake) as job:
    rank = torch.distributed.get_rank()
    job.log.info("process %s at work", rank)
    {body}
"""
BODIES = {
    # After a sum, to which both come, and before another, in which the first waits.
    "killed": (
        "processes = Processes(torch.distributed.group.WORLD)\n"
        "    processes.sum(torch.ones(1))\n"
        "    if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    processes.sum(torch.ones(1))",
        "process 2 of 2 was ended by SIGKILL",
    ),
    "failed": (
        "assert torch.get_num_threads() == 2\n"
        "    with Processes(torch.distributed.group.WORLD).agreed('a step'):\n"
        "        if rank == 1: raise MemoryError",
        "the memory is full: ",
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_distributed_failures_are_one_sentence(small: Project, case: str, tmp_path: Path) -> None:
    body, sentence = BODIES[case]
    done, log = launch(small, tmp_path, body)
    assert done.returncode == 1
    expected = f"eigenpairs (network=net): {sentence}"
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert log.read_text().count("at work") == log.read_text().count(expected) == 1
    assert not (tmp_path / "made.run.json").exists()


def test_distributed_network_that_diverged_is_left_out(small: Project, tmp_path: Path) -> None:
    body = (
        "from hessian_directions.errors import NonFiniteError\n"
        "    raise NonFiniteError('The loss is nan.')"
    )
    done, log = launch(small, tmp_path, body)
    assert done.returncode == 0
    sentence = "eigenpairs (network=net): The loss is nan."
    assert log.read_text().count(sentence) == 1
    assert json.loads((tmp_path / "made.run.json").read_text())["failed"] == sentence


@pytest.mark.long
def test_distributed_processes_end_with_the_job_that_is_killed(
    small: Project, tmp_path: Path
) -> None:
    body = "open(f'{job.output.run}.{rank}', 'w').write(str(os.getpid()))\n    signal.pause()"
    command, variables = prepared(small, tmp_path, body)
    job = subprocess.Popen(command, env=small.environment(**variables))
    files = [tmp_path / f"made.run.json.{rank}" for rank in (0, 1)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    job.kill()
    job.wait()
    wait_until(lambda: not any(Path("/proc", file.read_text()).exists() for file in files))


def wait_until(holds: Callable[[], bool]) -> None:
    """For minutes, where other programs keep the machine busy."""
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happens")


def launch(project: Project, folder: Path, body: str) -> tuple:
    """A script as a job of two processes with four threads, and its log."""
    command, variables = prepared(project, folder, body)
    started = time.monotonic()
    done = project.run(*command, check=False, **variables)
    assert time.monotonic() - started < 600  # a third of what a process waits for another
    return done, folder / "log"


def prepared(project: Project, folder: Path, body: str) -> tuple[list[str], dict[str, str]]:
    """The command of that job, and the environment that it needs."""
    script = folder / "script.py"
    script.write_text(SCRIPT.replace("{body}", body))
    job = Snakemake(
        InputFiles(),
        OutputFiles(fromdict={"run": str(folder / "made.run.json")}),
        Params(fromdict={"processes": 2, "device": "cpu"}),
        Wildcards(fromdict={"network": "net"}),
        4,
        {},
        Log([str(folder / "log")]),
        {},
        "eigenpairs",
        None,
    )
    (folder / "job").write_bytes(pickle.dumps(job))
    start = "import pickle, runpy; snakemake = pickle.load(open({!r}, 'rb'))".format(
        str(folder / "job")
    )
    code = f"{start}; runpy.run_path({str(script)!r}, dict(snakemake=snakemake), '__main__')"
    path = f"{project.path}/src:{project.path}/workflow/scripts"
    return [sys.executable, "-c", code], {"PYTHONPATH": path}
