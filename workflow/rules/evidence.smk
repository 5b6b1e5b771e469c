# Which artifacts the figures, animations, tables and claims read.

import dataclasses

from hessian_directions.reporting import claims
from hessian_directions.reproduction.source_files import declared

REGRESSION = [
    network
    for network in NETWORK_NAMES
    if config["networks"][network]["loss"] == "mean_squared_error"
]
CLASSIFICATION = [network for network in NETWORK_NAMES if network not in REGRESSION]
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
        paths = [f"<shared>/{name}.nc"] if name in SHOWN else []
    elif name == "history":
        paths = expand(f"{NETWORK}/history.nc", network=having(name, networks))
    else:
        paths = [
            path
            for network in having(name, networks)
            for path in expand(
                artifact(name), network=network, part=parts_of(name, network)
            )
        ]
    paths = [record(path) for path in paths] if is_record else paths
    if name == "passes" and COMPANION:
        # Times of the companion's networks join this profile's own: more sizes, one figure.
        paths += sorted(map(str, Path(SHARED).glob("networks/*/passes.run.json")))
    return paths[0] if name in registry.OF_PROFILES and paths else paths


# figure: what its module says of it, that module, and its inputs by the names of `draw`'s arguments
DRAWINGS = {}
for path in sorted((ROOT / "src/hessian_directions/reporting/figures").glob("*.py")):
    for figure, says in (declared(path, "FIGURES") or {}).items():
        networks = CHOICES[says.get("networks", "")]
        for read in says["reads"].values():
            if read.removesuffix("_record") not in registry.OF_PROFILES:
                networks = having(read.removesuffix("_record"), networks)
        inputs = {
            argument: evidence(read, networks)
            for argument, read in says["reads"].items()
        }
        # A figure whose networks are all absent from the profile is not drawn.
        if all(inputs.values()):
            DRAWINGS[figure] = says | {
                "module": path.stem,
                "file": str(path.relative_to(ROOT / "src")),
                "inputs": inputs,
            }
ANIMATIONS = {
    figure: says
    for figure, says in DRAWINGS.items()
    if says["module"].endswith("_animation")
}
FIGURES = {
    figure: says for figure, says in DRAWINGS.items() if figure not in ANIMATIONS
}


# What each job took; a companion's jobs are not counted again.
RECORDS = expand(f"{NETWORK}/checkpoint.run.json", network=NETWORK_NAMES)
for name in (*OF_NETWORKS, *OF_PROFILE):
    networks = OF_NETWORKS.get(name, [None])
    for network in networks:
        for pattern in [artifact(name)] + (
            [shard(name)] if registry.analysis(name).is_sharded else []
        ):
            RECORDS += [
                record(path)
                for path in expand(
                    pattern,
                    network=network,
                    part=parts_of(name, network),
                    shard=range(settings_of(name, network).get("n_shards", 1)),
                )
            ]
RECORDS = list(dict.fromkeys(RECORDS))

# Tables of what this profile computes or its companion has.
TABLES = {
    table: [read for read in tables.reads(table) if read not in ("labels", "records")]
    for table in tables.TABLES
}
TABLES = {
    table: reads
    for table, reads in TABLES.items()
    if all(
        name in SHOWN
        for name in (read.removesuffix("_record") for read in reads)
        if name in registry.OF_PROFILES
    )
}
TABLE_INPUTS = {
    read: evidence(read) for read in dict.fromkeys(sum(TABLES.values(), []))
}
CLAIM_INPUTS = {
    field.name: evidence(field.name)
    for field in dataclasses.fields(claims.Evidence)
    if field.name in (*SHOWN, *registry.OF_NETWORKS)
}


# Targets in their own right: Snakemake does not re-make a file that is only on the way to one that exists.
READ = [
    path
    for inputs in [
        TABLE_INPUTS,
        CLAIM_INPUTS,
        *(says["inputs"] for says in DRAWINGS.values()),
    ]
    for paths in inputs.values()
    for path in ([paths] if isinstance(paths, str) else paths)
]
if SOURCE == "compute":
    READ += expand(f"{NETWORK}/checkpoint.safetensors", network=NETWORK_NAMES)
    for name in OF_NETWORKS:
        if registry.analysis(name).has_dataset:
            paths = evidence(name)
            READ += paths
        if tensors := registry.analysis(name).tensors:
            READ += expand(
                f"{NETWORK}/{tensors}.safetensors", network=OF_NETWORKS[name]
            )
READ = sorted(set(READ))
