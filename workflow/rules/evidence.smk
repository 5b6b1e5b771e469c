# Which artifacts the figures, animations, tables and claims read.

import dataclasses

from hessian_directions.reporting import claims
from hessian_directions.reproduction import quantities
from hessian_directions.reproduction.source_files import declared

REGRESSION = [
    name for name in NETWORK_NAMES if config["networks"][name]["loss"] == "mean_squared_error"
]
CLASSIFICATION = [name for name in NETWORK_NAMES if name not in REGRESSION]
CHOICES = {
    "": NETWORK_NAMES,
    "regression": REGRESSION,
    "classification": CLASSIFICATION,
    "first classification": CLASSIFICATION[:1],
    "first": OF_NETWORKS.get("trajectory", [])[:1],
}


def having(name, networks=NETWORK_NAMES):
    """Those of these networks that have an artifact of this name, in their order."""
    if name == "history":
        return [network for network in networks if network in TRAINED]
    return [network for network in networks if network in OF_NETWORKS.get(name, [])]


def evidence(name, networks=NETWORK_NAMES):
    """The files of an artifact, or of run records (`<artifact>_record`): all parts, of these networks that have them."""
    name, is_record, _ = name.partition("_record")
    if name in registry.OF_PROFILES:
        paths = [artifact(name)] if name in SHOWN else []
    elif name == "history":
        paths = expand(f"{TRAINING}/history.nc", network=having(name, networks))
    else:
        paths = []
        for network in having(name, networks):
            paths += expand(artifact(name), network=network, part=parts_of(name, network))
    paths = [record(path) for path in paths] if is_record else paths
    if name == "passes" and COMPANION:
        # Times of the companion's networks join this profile's own: more sizes, one figure.
        paths += sorted(map(str, Path(SHARED).glob("networks/*/passes.run.json")))
    return paths[0] if name in registry.OF_PROFILES and paths else paths


def resolved(path):
    """A path as jobs see it; Snakemake replaces its variables in inputs alone."""
    path = path.replace("<artifacts>", ARTIFACTS).replace("<weights>", WEIGHTS)
    return path.replace("<shared>", SHARED)


# figure: what its module says of it, that module, and its inputs by the names of `draw`'s arguments
DRAWINGS = {}
for path in sorted((ROOT / "src/hessian_directions/reporting/figures").glob("*.py")):
    for figure, says in (declared(path, "FIGURES") or {}).items():
        networks = CHOICES[says.get("networks", "")]
        for read in says["reads"].values():
            if read.removesuffix("_record") not in registry.OF_PROFILES:
                networks = having(read.removesuffix("_record"), networks)
        inputs = {argument: evidence(read, networks) for argument, read in says["reads"].items()}
        # A figure whose networks are all absent from the profile is not drawn.
        if all(inputs.values()):
            DRAWINGS[figure] = says | {
                "module": path.stem,
                "file": str(path.relative_to(ROOT / "src")),
                "inputs": inputs,
            }
ANIMATIONS = {figure: says for figure, says in DRAWINGS.items() if says.get("animation")}
FIGURES = {figure: says for figure, says in DRAWINGS.items() if figure not in ANIMATIONS}


# What each job took; a companion's jobs are not counted again.
RECORDS = expand(f"{TRAINING}/checkpoint.run.json", network=NETWORK_NAMES)
for name in (*OF_NETWORKS, *OF_PROFILE):
    for network in OF_NETWORKS.get(name, [None]):
        for pattern in [artifact(name)] + ([shard(name)] if is_sharded(name) else []):
            shards = range(n_shards_of(name, network) or 1)
            paths = expand(pattern, network=network, part=parts_of(name, network), shard=shards)
            RECORDS += map(record, paths)
RECORDS = list(dict.fromkeys(RECORDS))

# Tables of what this profile computes or its companion has.
TABLES = {}
for table in tables.TABLES:
    reads = [read for read in tables.READS[table] if read not in ("labels", "records")]
    if {read.removesuffix("_record") for read in reads} & {*registry.OF_PROFILES} <= {*SHOWN}:
        TABLES[table] = reads


def is_measured(read):
    """Whether what a table reads is made in this run."""
    if read == "history":
        return TRAINS
    name = read.removesuffix("_record")
    return name in (*OF_NETWORKS, *OF_PROFILE) and is_computed(name)


# Those whose numbers are set beside the archive's: of what is measured in this run, and no times.
COMPARED = [
    table
    for table, reads in TABLES.items()
    if table not in quantities.TIMES and any(map(is_measured, reads))
]
if SOURCE in ("recompute", "replicate"):
    TABLES = {table: TABLES[table] for table in COMPARED}
TABLE_INPUTS = {read: evidence(read) for read in dict.fromkeys(sum(TABLES.values(), []))}
CLAIM_INPUTS = {
    field.name: evidence(field.name)
    for field in dataclasses.fields(claims.Evidence)
    if field.name in (*SHOWN, *registry.OF_NETWORKS)
}

# The claims are about saddles and a population, too.
JUDGED = {"saddles", "saddle_traces", "population"} <= set(SHOWN)
# Whether there are numbers of these settings to set this run's beside.
COMPARABLE = SOURCE in ("compute", "recompute") and is_archived(COMPLETE, ARCHIVE)


def paths_in(inputs):
    """The files of named inputs, of one or of several each."""
    return [
        path for paths in inputs.values() for path in ([paths] if isinstance(paths, str) else paths)
    ]


# Targets in their own right: Snakemake does not re-make a file that is only on the way to one that exists.
READ = paths_in(TABLE_INPUTS) + paths_in(CLAIM_INPUTS)
for says in DRAWINGS.values():
    READ += paths_in(says["inputs"])
if COMPUTES:
    READ += expand(f"{TRAINING}/checkpoint.safetensors", network=NETWORK_NAMES)
    for name in OF_NETWORKS:
        if registry.analysis(name).has_dataset:
            READ += evidence(name)
        if tensors := registry.analysis(name).tensors:
            READ += expand(TENSORS[tensors], network=OF_NETWORKS[name])
READ = sorted(set(READ))
