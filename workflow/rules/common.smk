# Configuration, paths, and the source files that each stage depends on.

import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import Snakemake

from hessian_directions.reproduction.artifacts import verify_manifest
from hessian_directions.reproduction.configuration import (
    analysis_settings,
    require_archived,
    validate,
)
from hessian_directions.errors import HessianDirectionsError
from hessian_directions.reproduction.source_files import source_files

# A second `configfile:` would be merged into the user's, key by key.
if "profile" not in config:

    configfile: "config/demo.yaml"


ROOT = Path(workflow.basedir)

# Snakemake formats these into its scripts' paths.
if set("{}\n") & set(f"{ROOT}{Path.cwd()}"):
    raise SystemExit(
        f"hessian-directions: the folder {str(ROOT)!r} has a brace or a line break in its path, which Snakemake "
        "cannot handle; rename or move it"
    )

# Snakemake puts the interpreter into shell commands as it is; its folder may have a space in its name.
PYTHON = sys.executable
sys.executable = shlex.quote(PYTHON)

CONFIGFILE = str((workflow.overwrite_configfiles or ["config/demo.yaml"])[0])

try:
    config = validate(config, ROOT / "workflow/schemas/config.schema.yaml", CONFIGFILE)
    SOURCE, PROFILE = config["source"], config["profile"]
    ARCHIVE = f"results/archive/{PROFILE}"
    COMPANION = config.get("companion")
    # <artifacts>: where analyses are read from; <drawn>: where drawings go.
    if SOURCE == "archive":
        verify_manifest(ARCHIVE)
        require_archived(config, ARCHIVE, CONFIGFILE)
        ARTIFACTS, DRAWN = ARCHIVE, f"results/redrawn/{PROFILE}"
    else:
        ARTIFACTS = DRAWN = f"results/computed/{PROFILE}"
    # Synthetic saddles and the population are this profile's own, or in the archive of its companion.
    SHARED = f"results/archive/{COMPANION}" if COMPANION else ARTIFACTS
    if COMPANION:
        verify_manifest(SHARED)
except HessianDirectionsError as error:
    # One sentence, not the traceback of a parser.
    raise SystemExit(f"hessian-directions: {error}")


pathvars:
    archive=ARCHIVE,
    artifacts=ARTIFACTS,
    drawn=DRAWN,
    shared=SHARED,
    logs=f"logs/{PROFILE}",


NETWORK_NAMES = list(config["networks"])
LABELS = {
    network: settings["label"] for network, settings in config["networks"].items()
}


def any_of(names):
    """A regular expression for exactly these names; for none it matches nothing."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    network=any_of(NETWORK_NAMES),
    plane="random|hessian",
    shard=r"\d+",
    job=r"\d+",
    n_images=r"\d+",


def studied(analysis):
    """The networks that an analysis is done for, in the order of the configuration."""
    return config["analyses"][analysis]["networks"]


def is_trained(network):
    """Whether the network is trained here; the others come with a checkpoint."""
    return "training" in config["networks"][network]


def settings_of(analysis, *keys):
    """A function of wildcards for `params`: one network's settings of one analysis, all or only these keys."""

    def settings(wildcards):
        every = analysis_settings(config, analysis, wildcards.network)
        return {key: every[key] for key in keys or every}

    return settings


def initial_network(wildcards):
    """What a job must know of a network to build it anew and train it: not what is studied about it."""
    settings = config["networks"][wildcards.network]
    return {key: settings[key] for key in ("data", "loss", "model")} | {
        "data_settings": config["data"][settings["data"]]
    }


def studied_network(wildcards):
    """What a job must know of a network to study it: not how it was trained, not what else is done to it."""
    settings = config["networks"][wildcards.network]
    return initial_network(wildcards) | {
        key: settings[key] for key in ("n_images", "batch_size") if key in settings
    }


def image_counts(network):
    """The numbers of images that a network's curvature is measured over."""
    return analysis_settings(config, "image_counts", network)["n_images"]


def checkpoint_precision(wildcards):
    """What the trained weights are rounded to before they are kept, and studied."""
    return config["networks"][wildcards.network].get("checkpoint_precision", "float32")


def own_files(wildcards):
    """Files of the user's own that a network is made from: weights, images, the module of its model."""
    settings = config["networks"][wildcards.network]
    named = [config["data"][settings["data"]].get("path")]
    if "url" not in settings.get("checkpoint", {}):
        named.append(settings.get("checkpoint", {}).get("file"))
    package, colon, _ = settings["model"]["name"].partition(":")
    if colon:
        named += [f"{folder}{package.replace('.', '/')}.py" for folder in ("", "src/")]
    return [path for path in named if path and Path(path).exists()]


def code(script, *modules):
    """The files a script runs, as inputs: editing one of them re-runs its stage, and no other.

    `modules` are those that the script imports by a configured name.
    """
    files = set()
    for path in (f"workflow/scripts/{script}.py", *modules):
        files.update(source_files(path, "src"))
    return sorted(files)


ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
# Workers without a job, see workflow/scripts/worker.py. They end with this process.
idle_workers = []


def run_script(rule, input, output, params, wildcards, log):
    """What `script:` does with the rule's script, without importing the same libraries for every job."""
    scripts = ROOT / "workflow/scripts"
    try:
        worker = idle_workers.pop()
    except IndexError:
        worker = subprocess.Popen(
            [PYTHON, scripts / "worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
        )
    job = Snakemake(input, output, params, wildcards, 1, {}, log, config, rule, None)
    pickle.dump((str(scripts / f"{rule}.py"), job), worker.stdin)
    worker.stdin.flush()
    status = worker.stdout.readline()
    if status:
        idle_workers.append(worker)
    if status != b"0\n":
        of = ", ".join(f"{key}={value}" for key, value in wildcards.items())
        raise WorkflowError(f"{rule} ({of}) failed" if of else f"{rule} failed")


def shards(analysis, network):
    """The numbers of the files that an analysis is computed in."""
    return range(analysis_settings(config, analysis, network)["n_shards"])


def surface_shards(wildcards):
    return expand(
        rules.evaluate_surface.output.shard,
        shard=shards("surfaces", wildcards.network),
        allow_missing=True,
    )


def projection_shards(wildcards):
    return expand(
        rules.sample_projections.output.shard,
        shard=shards("projections", wildcards.network),
        allow_missing=True,
    )


# What every stage that computes is told; another number re-runs it.
COMMON = {key: config[key] for key in ("seed", "device", "precision", "threads")}
# The same for stages that compute on the CPU in float64, whatever the others do.
ON_CPU = COMMON | {"device": "cpu", "precision": "float64"}
# A GPU is asked for only where the configuration uses one.
GPU = {"gpu": 1} if config["device"] == "cuda" else {}
