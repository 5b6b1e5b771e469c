# Configuration, paths, and the source files that each stage depends on.

import functools
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import Snakemake

from hessian_directions.analyses import registry
from hessian_directions.data import cache as cache_folder
from hessian_directions.errors import HessianDirectionsError
from hessian_directions.reporting import tables
from hessian_directions.reproduction import own_files as users_own
from hessian_directions.reproduction import source_files
from hessian_directions.reproduction.artifacts import verify_manifest
from hessian_directions.reproduction.configuration import (
    complete,
    is_archived,
    read_yaml,
    require_archived,
)

# A second `configfile:` would be merged into the user's, key by key.
if "networks" not in config:

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
    read_yaml(CONFIGFILE)  # Snakemake takes the last of two keys that are the same
    config = complete(config, CONFIGFILE, ROOT)
    PROFILE = config["profile"]
    ARCHIVE = f"results/archive/{PROFILE}"
    COMPANION = config["companion"]
    SOURCE = config["source"]
    if SOURCE == "auto":
        SOURCE = "archive" if is_archived(config, ARCHIVE) else "compute"
    TRAINS, COMPUTES = SOURCE in ("compute", "replicate"), SOURCE != "archive"
    if not TRAINS:
        verify_manifest(ARCHIVE)
        require_archived(config, ARCHIVE, CONFIGFILE)
    # <artifacts>: where analyses are read from; <drawn>: where drawings go.
    DRAWN = {
        "archive": f"results/redrawn/{PROFILE}",
        "compute": f"results/computed/{PROFILE}",
        "recompute": f"results/recomputed/{PROFILE}",
        "replicate": f"results/replicates/{PROFILE}/{config['seed']}",
    }[SOURCE]
    # Replicates of one profile differ in their seed: each has its own folder, for its logs as well.
    LOGS = f"logs/{PROFILE}/{config['seed']}" if SOURCE == "replicate" else f"logs/{PROFILE}"
    ARTIFACTS = DRAWN if COMPUTES else ARCHIVE
    # <weights>: what training made.
    WEIGHTS = ARTIFACTS if TRAINS else ARCHIVE
    # Where what this profile does not compute itself of saddles and the population is.
    SHARED = f"results/archive/{COMPANION}" if COMPANION else ARTIFACTS
    if COMPANION:
        verify_manifest(SHARED)
except HessianDirectionsError as error:
    # One sentence, not the traceback of a parser.
    raise SystemExit(f"hessian-directions: {error}")


# What the paper reads, and the archive keeps.
COMPLETE = dict(config)
# Files and modules that a configuration names are looked for beside it first.
config["folder"] = str(Path(CONFIGFILE).parent)
# Where they are, and the cache folder.
OWN_FOLDERS = Path(config["folder"]), cache_folder.folder(config["cache"])


pathvars:
    archive=ARCHIVE,
    artifacts=ARTIFACTS,
    weights=WEIGHTS,
    drawn=DRAWN,
    shared=SHARED,
    logs=LOGS,


NETWORK_NAMES = list(config["networks"])
LABELS = {network: settings["label"] for network, settings in config["networks"].items()}
TRAINED = [name for name in NETWORK_NAMES if config["networks"][name]["training"]]


def any_of(names):
    """A regular expression for exactly these names; for none it matches nothing."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    network=any_of(NETWORK_NAMES),
    part="[A-Za-z0-9]+",
    shard=r"\d+",


# Analyses: their networks, settings and files.

OF_NETWORKS = {}
for name in registry.OF_NETWORKS:
    networks = [n for n in NETWORK_NAMES if name in config["networks"][n]["analyses"]]
    if networks:
        OF_NETWORKS[name] = networks
OF_PROFILE = [name for name in registry.OF_PROFILES if name in config["analyses"]]
# Those that this profile shows: its own, and what its companion has besides.
SHOWN = [
    name
    for name in registry.OF_PROFILES
    if name in OF_PROFILE or (COMPANION and Path(f"{SHARED}/{name}.nc").exists())
]

NETWORK = "<artifacts>/networks/{network}"
# Checkpoint, history and weights along the way.
TRAINING = "<weights>/networks/{network}"
# Large arrays that are no analysis' own artifact.
TENSORS = {
    "eigenvectors": f"{NETWORK}/eigenvectors.safetensors",
    "snapshots": f"{TRAINING}/snapshots.safetensors",
}


def is_computed(name):
    """Whether an analysis is made in this run; one that trains is taken from where the weights are."""
    return COMPUTES and (TRAINS or not registry.analysis(name).trains)


def folder(name):
    if name in registry.OF_NETWORKS:
        return NETWORK if is_computed(name) else TRAINING
    if name not in OF_PROFILE:
        return "<shared>"
    return "<artifacts>" if is_computed(name) else "<weights>"


def artifact(name):
    """The path of an analysis' artifact, with wildcards."""
    name_of_file = f"{name}/{{part}}" if registry.analysis(name).has_parts else name
    return f"{folder(name)}/{name_of_file}.nc"


def shard(name):
    """The path of a shard of it."""
    part = "{part}_" if registry.analysis(name).has_parts else ""
    return f"{folder(name)}/shards/{name}/{part}{{shard}}.nc"


def record(path):
    """The run record beside an artifact."""
    return path.removesuffix(".nc") + ".run.json"


def settings_of(name, network=None):
    """All the settings of an analysis: of one network, or of the profile."""
    if network is None:
        return config["analyses"][name]
    return config["networks"][network]["analyses"][name]


def parts_of(name, network=None):
    return registry.analysis(name).parts(settings_of(name, network))


def n_shards_of(name, network):
    """The shards of an analysis of a network; None where it is computed in none."""
    return registry.analysis(name).n_shards(settings_of(name, network))


def shards_of(name):
    """The shards of an artifact, as an input function."""

    def paths(wildcards):
        n_shards = n_shards_of(name, wildcards.get("network"))
        return expand(shard(name), shard=range(n_shards), allow_missing=True)

    return paths


def is_sharded(name):
    """Whether an analysis is computed in shards here: of one network as of all."""
    return n_shards_of(name, OF_NETWORKS.get(name, [None])[0]) is not None


def stage_of(name):
    """The rule that computes an analysis, or its shards."""
    return f"{name}_shard" if is_sharded(name) else name


def made_by(name):
    """The files that an analysis, or one of its shards, is written to, by name."""
    analysis = registry.analysis(name)
    path = shard(name) if is_sharded(name) else artifact(name)
    files = {"artifact": path} if analysis.has_dataset else {}
    if analysis.tensors:
        files[analysis.tensors] = TENSORS[analysis.tensors]
    return files | {"run": record(path)}


def log_of(name, rule_name):
    """The log of an analysis, or of the gathering of its shards, with the wildcards of what it makes."""
    made = artifact(name) if rule_name == name else shard(name)
    path = Path(made.replace("<artifacts>", f"<logs>/{rule_name}"))
    return str(path.with_suffix(".log"))


def data_of(name):
    """The settings of the data that an analysis of no network reads, and what they are now, as parameters."""
    data = config["analyses"][name].get("data")
    if data is None:
        return {}
    return {"data_settings": config["data"][data], "own_data": fingerprints_of(data)}


def read_by(names):
    """The files of what an analysis reads of the same network, by name."""
    return {name: TENSORS[name] if name in TENSORS else artifact(name) for name in names}


def other_checkpoints(name):
    """The weights of other networks that an analysis reads, as an input function."""

    def paths(wildcards):
        settings = settings_of(name, wildcards.network)
        names = registry.analysis(name).other_networks(settings)
        return expand(f"{TRAINING}/checkpoint.safetensors", network=names)

    return paths


def told(name, stage):
    """What a stage of an analysis is told of its settings, as parameters."""
    analysis = registry.analysis(name)

    def settings(wildcards):
        return analysis.stage_settings(settings_of(name, wildcards.get("network")), stage)

    return {"analysis": name, "settings": settings}


def initial_network(wildcards):
    """What a job must know of a network to build it anew and train it: not what is analysed of it."""
    settings = config["networks"][wildcards.network]
    checkpoint_name = (settings["checkpoint"] or {}).get("name")
    return {key: settings[key] for key in ("data", "loss", "model", "seed")} | {
        "data_settings": config["data"][settings["data"]],
        # A published model has a transform of its own.
        "checkpoint": {"name": checkpoint_name},
    }


def studied_network(wildcards):
    """What a job must know of a network to analyse it: not how it was trained, not what else is done to it."""
    settings = config["networks"][wildcards.network]
    return initial_network(wildcards) | {key: settings[key] for key in ("n_images", "batch_size")}


def own_files(wildcards):
    """Files of the user's own that a network is made from: weights, images, modules."""
    settings = config["networks"][wildcards.network]
    return own_inputs(settings, settings["checkpoint"])


def studied_files(wildcards):
    """Those that a network is analysed with: its weights are in the checkpoint that was made of them."""
    return own_inputs(config["networks"][wildcards.network])


def own_inputs(settings, checkpoint=None):
    """Files of the user's own behind the data and the model of a network, or of an analysis that trains its own."""
    if settings.get("data") is None:
        return []
    data, model = config["data"][settings["data"]], settings["model"]["name"]
    files = users_own.files(data, *OWN_FOLDERS, model, checkpoint)
    # They are the user's own wherever results are kept.
    return [local(file) for file in files]


def own_data(wildcards):
    """Fingerprints of the user's own folders of images, as a parameter: thousands of files are no inputs."""
    return fingerprints_of(config["networks"][wildcards.network]["data"])


@functools.cache
def fingerprints_of(data):
    return users_own.fingerprints(config["data"][data], *OWN_FOLDERS)


def code(script, *modules, without=()):
    """The files a script runs, as inputs: editing one of them re-runs its stage, and no other.

    `modules` are those that the script imports by a configured name, `without` the functions of theirs that it does
    not call.
    """
    files = set(source_files.source_files(f"workflow/scripts/{script}.py", "src"))
    for path in modules:
        files.update(source_files.source_files(f"src/{path}", "src", without))
    # A list of names: one more analysis re-runs none of the others.
    files.discard("src/hessian_directions/analyses/registry.py")
    # They are the clone's own files wherever results are kept.
    return [local(file) for file in sorted(files)]


def shown(path):
    """A picture, with what Snakemake's own report says of it."""
    return report(
        path,
        caption="../report/caption.rst",
        category=lambda wildcards: DRAWINGS[wildcards.figure]["category"],
        labels=lambda wildcards: {"figure": DRAWINGS[wildcards.figure]["title"]},
    )


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Workers without a job, see workflow/scripts/worker.py. They end with this process.
idle_workers = {"draw": [], "compute": []}


def run_script(rule, input, output, params, wildcards, log):
    """What `script:` does with the rule's script, which imports no PyTorch."""
    job = Snakemake(input, output, params, wildcards, 1, {}, log, config, rule, None)
    hand_over("draw", f"{rule}.py", job)


def script(path, basedir, input, output, params, wildcards, threads, resources, *more):
    """What `script:` calls: Snakemake's own starts a Python for every job, which imports the same libraries."""
    log, config, name = more[:3]
    job = Snakemake(input, output, params, wildcards, threads, resources, log, config, name, None)
    hand_over("compute", Path(path).name, job)


def hand_over(kind, script, job):
    """Have a worker of a kind run a script in workflow/scripts."""
    scripts = ROOT / "workflow/scripts"
    try:
        worker = idle_workers[kind].pop()
    except IndexError:
        worker = subprocess.Popen(
            [PYTHON, scripts / "worker.py", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
        )
    pickle.dump((str(scripts / script), job), worker.stdin)
    worker.stdin.flush()
    status = worker.stdout.readline()
    if status:
        idle_workers[kind].append(worker)
    if status != b"0\n":
        of = ", ".join(f"{key}={value}" for key, value in job.wildcards.items())
        raise WorkflowError(f"{job.rule} ({of}) failed" if of else f"{job.rule} failed")


# What every stage that computes is told; another number re-runs it.
COMMON = {key: config[key] for key in ("seed", "device", "precision", "threads")}
# The same for stages that compute on the CPU in float64, whatever the others do.
ON_CPU = COMMON | {"device": "cpu", "precision": "float64"}
# Jobs that analyse one network may have several processes.
PROCESSES = {"processes": config["processes"]} if config["processes"] > 1 else {}
