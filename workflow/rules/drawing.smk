# Figures, animations and tables: they read artifacts, import no torch, and are redrawn from the archive.

import yaml

CAPTIONS = yaml.safe_load((ROOT / "workflow/report/captions.yaml").read_text())

SADDLES = ARTIFACTS + "/synthetic/saddles.nc"
SADDLE_TRACES = ARTIFACTS + "/synthetic/traces.nc"
POPULATION = ARTIFACTS + "/population.nc"


def per_network(artifact, networks):
    """One artifact of each of these networks."""
    return expand(NETWORKS + "/" + artifact, network=networks)


APPROXIMATORS = [
    network
    for network in NETWORK_NAMES
    if config["networks"][network]["loss"] == "mean_squared_error"
]
CLASSIFIERS = [network for network in NETWORK_NAMES if network not in APPROXIMATORS]


def slices_of(networks):
    shown = [network for network in networks if network in studied("surfaces")]
    return [path for plane in ("random", "hessian") for path in per_network(f"surfaces/{plane}.nc", shown)]


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
        {"traces": per_network("traces.nc", studied("traces")), "synthetic": SADDLE_TRACES},
    ),
    "trace_cost": (
        "trace_cost",
        {
            "traces": per_network("traces.nc", studied("traces")),
            "seconds": per_network("traces.run.json", studied("traces")),
        },
    ),
    "step_sizes": ("step_sizes", {"studies": per_network("step_sizes.nc", studied("step_sizes"))}),
    "approximator_fits": (
        "approximator_fits",
        {"measurements": per_network("measurements.nc", APPROXIMATORS)},
    ),
    "approximator_slices": ("slices", {"surfaces": slices_of(APPROXIMATORS)}),
    "classifier_slices": ("slices", {"surfaces": slices_of(CLASSIFIERS)}),
    "surface_3d": ("surface_3d", {"surfaces": slices_of(CLASSIFIERS[:1])}),
    "profiles": ("profiles", {"profiles": per_network("profiles.nc", studied("profiles"))}),
    "spectra": (
        "spectra",
        {
            "spectra": per_network("spectrum.nc", studied("spectrum")),
            "eigenpairs": per_network("eigenpairs.nc", studied("spectrum")),
        },
    ),
    "lowest_points": ("lowest_points", {"planes": per_network("planes.nc", studied("planes"))}),
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
        {"histories": per_network("history.nc", [n for n in APPROXIMATORS if is_trained(n)])},
    ),
    "path": (
        "path_animation",
        {"trajectories": per_network("trajectory.nc", studied("trajectory")[:1])},
    ),
}


# A figure whose networks are all absent from the profile is not drawn.
def has_inputs(entry):
    return all(entry[1].values())


FIGURES = {figure: entry for figure, entry in FIGURES.items() if has_inputs(entry)}
ANIMATIONS = {animation: entry for animation, entry in ANIMATIONS.items() if has_inputs(entry)}


rule draw_figure:
    input:
        unpack(lambda wildcards: FIGURES[wildcards.figure][1]),
        style="src/hessian_directions/figures/style.mplstyle",
        code=lambda wildcards: code(
            "draw_figure", f"src/hessian_directions/figures/{FIGURES[wildcards.figure][0]}.py"
        ),
    output:
        pdf=DRAWN + "/figures/{figure}.pdf",
        png=report(
            DRAWN + "/figures/{figure}.png",
            caption="../report/caption.rst",
            category=lambda wildcards: CAPTIONS[wildcards.figure]["category"],
            labels=lambda wildcards: {"figure": CAPTIONS[wildcards.figure]["title"]},
        ),
    wildcard_constraints:
        figure=any_of(FIGURES),
    params:
        module=lambda wildcards: FIGURES[wildcards.figure][0],
        labels=LABELS,
        caption=lambda wildcards: CAPTIONS[wildcards.figure]["caption"],
    log:
        "logs/" + PROFILE + "/draw_figure/{figure}.log",
    conda:
        "../../environment.yml"
    script:
        "../scripts/draw_figure.py"


rule draw_animation:
    input:
        unpack(lambda wildcards: ANIMATIONS[wildcards.animation][1]),
        style="src/hessian_directions/figures/style.mplstyle",
        code=lambda wildcards: code(
            "draw_animation",
            f"src/hessian_directions/figures/{ANIMATIONS[wildcards.animation][0]}.py",
        ),
    output:
        gif=report(
            DRAWN + "/animations/{animation}.gif",
            caption="../report/caption.rst",
            category=lambda wildcards: CAPTIONS[wildcards.animation]["category"],
            labels=lambda wildcards: {"figure": CAPTIONS[wildcards.animation]["title"]},
        ),
    wildcard_constraints:
        animation=any_of(ANIMATIONS),
    params:
        module=lambda wildcards: ANIMATIONS[wildcards.animation][0],
        labels=LABELS,
        caption=lambda wildcards: CAPTIONS[wildcards.animation]["caption"],
    log:
        "logs/" + PROFILE + "/draw_animation/{animation}.log",
    conda:
        "../../environment.yml"
    script:
        "../scripts/draw_animation.py"


rule draw_figures:
    input:
        expand(rules.draw_figure.output, figure=FIGURES),
        expand(rules.draw_animation.output, animation=ANIMATIONS),


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
TABLES = (
    "networks visibility saddles dimensions traces step_sizes softplus surface_checks lowest_points "
    "correlations population cost"
).split()


rule make_tables:
    input:
        **EVIDENCE,
        step_sizes=per_network("step_sizes.nc", studied("step_sizes")),
        records=[
            SADDLES.replace(".nc", ".run.json"),
            SADDLE_TRACES.replace(".nc", ".run.json"),
            *expand(ARTIFACTS + "/population/members_{job}.run.json", job=range(config["population"]["n_jobs"])),
            *per_network("checkpoint.run.json", NETWORK_NAMES),
            *(
                path
                for analysis in ("eigenpairs", "projections", "traces", "step_sizes", "spectrum", "profiles", "planes", "trajectory")
                for path in per_network(f"{analysis}.run.json", studied(analysis))
            ),
        ],
        code=code("make_tables"),
    output:
        **{
            table: report(
                DRAWN + f"/tables/{table}.csv",
                caption="../report/table.rst",
                category="Tables",
                labels={"table": table.replace("_", " ")},
            )
            for table in TABLES
        },
    params:
        labels=LABELS,
    log:
        "logs/" + PROFILE + "/make_tables/tables.log",
    conda:
        "../../environment.yml"
    script:
        "../scripts/make_tables.py"
