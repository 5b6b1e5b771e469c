# Directions, traces, spectra, surfaces: what the loss looks like around a checkpoint.


rule find_eigenpairs:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("find_eigenpairs"),
    output:
        eigenpairs=NETWORKS + "/eigenpairs.nc",
        eigenvectors=NETWORKS + "/eigenvectors.safetensors",
        run=NETWORKS + "/eigenpairs.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("eigenpairs"),
    log:
        "logs/" + PROFILE + "/find_eigenpairs/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/find_eigenpairs.py"


rule sample_projections:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        eigenpairs=rules.find_eigenpairs.output.eigenpairs,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("sample_projections"),
    output:
        projections=NETWORKS + "/projections.nc",
        run=NETWORKS + "/projections.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("projections"),
    log:
        "logs/" + PROFILE + "/sample_projections/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/sample_projections.py"


rule compare_traces:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        projections=rules.sample_projections.output.projections,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("compare_traces"),
    output:
        traces=NETWORKS + "/traces.nc",
        run=NETWORKS + "/traces.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("traces"),
    log:
        "logs/" + PROFILE + "/compare_traces/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/compare_traces.py"


rule study_step_sizes:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("study_step_sizes"),
    output:
        step_sizes=NETWORKS + "/step_sizes.nc",
        run=NETWORKS + "/step_sizes.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("step_sizes"),
    log:
        "logs/" + PROFILE + "/study_step_sizes/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/study_step_sizes.py"


rule estimate_spectrum:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("estimate_spectrum"),
    output:
        spectrum=NETWORKS + "/spectrum.nc",
        run=NETWORKS + "/spectrum.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("spectrum"),
    log:
        "logs/" + PROFILE + "/estimate_spectrum/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/estimate_spectrum.py"


rule evaluate_surface:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("evaluate_surface"),
    output:
        shard=NETWORKS + "/shards/{plane}/{shard}.nc",
        run=NETWORKS + "/shards/{plane}/{shard}.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("surfaces"),
    log:
        "logs/" + PROFILE + "/evaluate_surface/{network}_{plane}_{shard}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/evaluate_surface.py"


def surface_shards(wildcards):
    n_shards = analysis_settings(config, "surfaces", wildcards.network)["n_shards"]
    return expand(rules.evaluate_surface.output.shard, shard=range(n_shards), allow_missing=True)


rule gather_surface:
    input:
        shards=surface_shards,
        code=code("gather_surface"),
    output:
        surface=NETWORKS + "/surfaces/{plane}.nc",
        run=NETWORKS + "/surfaces/{plane}.run.json",
    params:
        **COMMON,
    log:
        "logs/" + PROFILE + "/gather_surface/{network}_{plane}.log",
    threads: config["threads"]
    conda:
        "../../environment.yml"
    script:
        "../scripts/gather_surface.py"


rule evaluate_profiles:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("evaluate_profiles"),
    output:
        profiles=NETWORKS + "/profiles.nc",
        run=NETWORKS + "/profiles.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("profiles"),
    log:
        "logs/" + PROFILE + "/evaluate_profiles/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/evaluate_profiles.py"


rule survey_planes:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("survey_planes"),
    output:
        planes=NETWORKS + "/planes.nc",
        run=NETWORKS + "/planes.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("planes"),
    log:
        "logs/" + PROFILE + "/survey_planes/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/survey_planes.py"


rule track_curvature:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        snapshots=rules.train_network.output.snapshots,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("track_curvature"),
    output:
        trajectory=NETWORKS + "/trajectory.nc",
        run=NETWORKS + "/trajectory.run.json",
    params:
        **COMMON,
        network=network_settings,
        settings=settings_of("trajectory"),
    log:
        "logs/" + PROFILE + "/track_curvature/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/track_curvature.py"
