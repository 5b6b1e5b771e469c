# Which artifacts the figures, animations, tables and claims read.

import yaml

CAPTIONS = yaml.safe_load((ROOT / "workflow/report/captions.yaml").read_text())

SADDLES = "<shared>/synthetic/saddles.nc"
SADDLE_TRACES = "<shared>/synthetic/traces.nc"
POPULATION = "<shared>/population.nc"


def per_network(artifact, networks):
    """One artifact of each of these networks."""
    return expand(f"<artifacts>/networks/{{network}}/{artifact}", network=networks)


APPROXIMATORS = [
    network
    for network in NETWORK_NAMES
    if config["networks"][network]["loss"] == "mean_squared_error"
]
CLASSIFIERS = [network for network in NETWORK_NAMES if network not in APPROXIMATORS]


def slices_of(networks):
    shown = [network for network in networks if network in studied("surfaces")]
    return [
        path
        for plane in ("random", "hessian")
        for path in per_network(f"surfaces/{plane}.nc", shown)
    ]


IMAGE_COUNTS = [
    path
    for network in studied("image_counts")
    for path in expand(
        "<artifacts>/networks/{network}/image_counts/{n_images}.nc",
        network=network,
        n_images=image_counts(network),
    )
]


TRAINED = [network for network in NETWORK_NAMES if is_trained(network)]
HISTORIES = per_network("history.nc", TRAINED)
# Times of the companion's networks join this profile's own: more sizes, one figure.
PASSES = per_network("passes.run.json", studied("passes"))
if COMPANION:
    PASSES += sorted(map(str, Path(SHARED).glob("networks/*/passes.run.json")))


# figure: (module that draws it, its inputs by the names of that module's `draw`)
FIGURES = {
    "saddle_slices": ("saddle_slices", {"saddles": SADDLES}),
    "curvature_histograms": ("curvature_histograms", {"saddles": SADDLES}),
    "visibility": ("visibility", {"saddles": SADDLES}),
    "visibility_networks": (
        "visibility_networks",
        {"projections": per_network("projections.nc", studied("projections"))},
    ),
    "trace_convergence": (
        "trace_convergence",
        {
            "traces": per_network("traces.nc", studied("traces")),
            "synthetic": SADDLE_TRACES,
        },
    ),
    "trace_cost": (
        "trace_cost",
        {
            "traces": per_network("traces.nc", studied("traces")),
            "seconds": per_network("traces.run.json", studied("traces")),
        },
    ),
    "step_sizes": (
        "step_sizes",
        {"studies": per_network("step_sizes.nc", studied("step_sizes"))},
    ),
    "approximator_fits": (
        "approximator_fits",
        {"measurements": per_network("measurements.nc", APPROXIMATORS)},
    ),
    "approximator_slices": ("slices", {"surfaces": slices_of(APPROXIMATORS)}),
    "classifier_slices": ("slices", {"surfaces": slices_of(CLASSIFIERS)}),
    "surface_3d": ("surface_3d", {"surfaces": slices_of(CLASSIFIERS[:1])}),
    "profiles": (
        "profiles",
        {"profiles": per_network("profiles.nc", studied("profiles"))},
    ),
    "spectra": (
        "spectra",
        {
            "spectra": per_network("spectrum.nc", studied("spectrum")),
            "eigenpairs": per_network("eigenpairs.nc", studied("spectrum")),
        },
    ),
    "image_counts": ("image_counts", {"image_counts": IMAGE_COUNTS}),
    "lowest_points": (
        "lowest_points",
        {"planes": per_network("planes.nc", studied("planes"))},
    ),
    "cost_scaling": ("cost_scaling", {"passes": PASSES}),
    "flatness": ("flatness", {"population": POPULATION}),
    "rank_correlations": ("rank_correlations", {"population": POPULATION}),
    "rescaling": ("rescaling", {"population": POPULATION}),
    "trajectory": (
        "trajectory",
        {"trajectories": per_network("trajectory.nc", studied("trajectory"))},
    ),
}
ANIMATIONS = {
    "training": (
        "training_animation",
        {
            "histories": per_network(
                "history.nc", [n for n in APPROXIMATORS if is_trained(n)]
            )
        },
    ),
    "path": (
        "path_animation",
        {"trajectories": per_network("trajectory.nc", studied("trajectory")[:1])},
    ),
}


def has_inputs(entry):
    """A figure whose networks are all absent from the profile is not drawn."""
    return all(entry[1].values())


FIGURES = {figure: entry for figure, entry in FIGURES.items() if has_inputs(entry)}
ANIMATIONS = {
    animation: entry for animation, entry in ANIMATIONS.items() if has_inputs(entry)
}


# What tables and claims read: the same artifacts, by analysis.
EVIDENCE = {
    "saddles": SADDLES,
    "saddle_traces": SADDLE_TRACES,
    "population": POPULATION,
    "measurements": per_network("measurements.nc", NETWORK_NAMES),
    "eigenpairs": per_network("eigenpairs.nc", studied("eigenpairs")),
    "projections": per_network("projections.nc", studied("projections")),
    "traces": per_network("traces.nc", studied("traces")),
    "planes": per_network("planes.nc", studied("planes")),
}
# What each job took; a companion's jobs are not counted again.
RECORDS = [
    *per_network("checkpoint.run.json", NETWORK_NAMES),
    *per_network("measurements.run.json", NETWORK_NAMES),
    *(
        path
        for network in studied("surfaces")
        for path in expand(
            "<artifacts>/networks/{network}/shards/{plane}/{shard}.run.json",
            network=network,
            plane=["random", "hessian"],
            shard=shards("surfaces", network),
        )
    ),
    *(
        path
        for network in studied("projections")
        for path in expand(
            "<artifacts>/networks/{network}/shards/projections/{shard}.run.json",
            network=network,
            shard=shards("projections", network),
        )
    ),
    *per_network("reference_trace.run.json", studied("projections")),
    *(path.replace(".nc", ".run.json") for path in IMAGE_COUNTS),
    *(
        path
        for analysis in (
            "eigenpairs",
            "projections",
            "traces",
            "step_sizes",
            "spectrum",
            "profiles",
            "planes",
            "trajectory",
            "passes",
        )
        for path in per_network(f"{analysis}.run.json", studied(analysis))
    ),
]
if not COMPANION:
    RECORDS += [
        SADDLES.replace(".nc", ".run.json"),
        SADDLE_TRACES.replace(".nc", ".run.json"),
        *expand(
            "<artifacts>/population/members_{job}.run.json",
            job=range(config["population"]["n_jobs"]),
        ),
    ]
TABLES = (
    "networks visibility saddles dimensions traces step_sizes softplus surface_checks shallow_sides image_counts "
    "lowest_points correlations levels population cost cost_scaling"
).split()


# Targets in their own right: Snakemake does not re-make a file that is only on the way to one that exists.
READ = [
    path
    for inputs in [
        EVIDENCE,
        *(inputs for _, inputs in [*FIGURES.values(), *ANIMATIONS.values()]),
    ]
    for paths in inputs.values()
    for path in ([paths] if isinstance(paths, str) else paths)
]
if SOURCE == "compute":
    READ += per_network("checkpoint.safetensors", NETWORK_NAMES)
    READ += per_network("eigenvectors.safetensors", studied("eigenpairs"))
READ = sorted(set(READ))
