# Directions, traces, spectra, surfaces: what the loss looks like around a checkpoint.


rule find_eigenpairs:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("find_eigenpairs"),
    output:
        eigenpairs="<artifacts>/networks/{network}/eigenpairs.nc",
        eigenvectors="<artifacts>/networks/{network}/eigenvectors.safetensors",
        run="<artifacts>/networks/{network}/eigenpairs.run.json",
    log:
        "<logs>/find_eigenpairs/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("eigenpairs"),
    script:
        "../scripts/find_eigenpairs.py"


rule sample_projections:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("sample_projections"),
    output:
        shard="<artifacts>/networks/{network}/shards/projections/{shard}.nc",
        run="<artifacts>/networks/{network}/shards/projections/{shard}.run.json",
    log:
        "<logs>/sample_projections/{network}_{shard}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        # Nothing else: with more files those that are there stay as they are.
        settings=settings_of("projections", "n_samples"),
    script:
        "../scripts/sample_projections.py"


rule estimate_reference_trace:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        eigenpairs=rules.find_eigenpairs.output.eigenpairs,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("estimate_reference_trace"),
    output:
        reference="<artifacts>/networks/{network}/reference_trace.nc",
        run="<artifacts>/networks/{network}/reference_trace.run.json",
    log:
        "<logs>/estimate_reference_trace/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("projections", "n_sketch", "n_reference", "exact_trace"),
    script:
        "../scripts/estimate_reference_trace.py"


rule study_projections:
    input:
        shards=projection_shards,
        reference=rules.estimate_reference_trace.output.reference,
        eigenpairs=rules.find_eigenpairs.output.eigenpairs,
        code=code("study_projections"),
    output:
        projections="<artifacts>/networks/{network}/projections.nc",
        run="<artifacts>/networks/{network}/projections.run.json",
    log:
        "<logs>/study_projections/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    params:
        **ON_CPU,
        settings=settings_of("projections", "n_spectrum_samples"),
    script:
        "../scripts/study_projections.py"


rule compare_traces:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        reference=rules.estimate_reference_trace.output.reference,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("compare_traces"),
    output:
        traces="<artifacts>/networks/{network}/traces.nc",
        run="<artifacts>/networks/{network}/traces.run.json",
    log:
        "<logs>/compare_traces/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("traces"),
    script:
        "../scripts/compare_traces.py"


rule study_step_sizes:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("study_step_sizes"),
    output:
        step_sizes="<artifacts>/networks/{network}/step_sizes.nc",
        run="<artifacts>/networks/{network}/step_sizes.run.json",
    log:
        "<logs>/study_step_sizes/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("step_sizes"),
    script:
        "../scripts/study_step_sizes.py"


rule estimate_spectrum:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("estimate_spectrum"),
    output:
        spectrum="<artifacts>/networks/{network}/spectrum.nc",
        run="<artifacts>/networks/{network}/spectrum.run.json",
    log:
        "<logs>/estimate_spectrum/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("spectrum"),
    script:
        "../scripts/estimate_spectrum.py"


rule evaluate_surface:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("evaluate_surface"),
    output:
        shard="<artifacts>/networks/{network}/shards/{plane}/{shard}.nc",
        run="<artifacts>/networks/{network}/shards/{plane}/{shard}.run.json",
    log:
        "<logs>/evaluate_surface/{network}_{plane}_{shard}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("surfaces"),
    script:
        "../scripts/evaluate_surface.py"


rule gather_surface:
    input:
        shards=surface_shards,
        code=code("gather_surface"),
    output:
        surface="<artifacts>/networks/{network}/surfaces/{plane}.nc",
        run="<artifacts>/networks/{network}/surfaces/{plane}.run.json",
    log:
        "<logs>/gather_surface/{network}_{plane}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    params:
        **COMMON,
    script:
        "../scripts/gather_surface.py"


rule evaluate_profiles:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("evaluate_profiles"),
    output:
        profiles="<artifacts>/networks/{network}/profiles.nc",
        run="<artifacts>/networks/{network}/profiles.run.json",
    log:
        "<logs>/evaluate_profiles/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("profiles"),
    script:
        "../scripts/evaluate_profiles.py"


rule survey_planes:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("survey_planes"),
    output:
        planes="<artifacts>/networks/{network}/planes.nc",
        run="<artifacts>/networks/{network}/planes.run.json",
    log:
        "<logs>/survey_planes/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("planes"),
    script:
        "../scripts/survey_planes.py"


rule track_curvature:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        snapshots=rules.train_network.output.snapshots,
        eigenvectors=rules.find_eigenpairs.output.eigenvectors,
        code=code("track_curvature"),
    output:
        trajectory="<artifacts>/networks/{network}/trajectory.nc",
        run="<artifacts>/networks/{network}/trajectory.run.json",
    log:
        "<logs>/track_curvature/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("trajectory"),
    script:
        "../scripts/track_curvature.py"


rule vary_images:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("vary_images"),
    output:
        counted="<artifacts>/networks/{network}/image_counts/{n_images}.nc",
        run="<artifacts>/networks/{network}/image_counts/{n_images}.run.json",
    log:
        "<logs>/vary_images/{network}_{n_images}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        # Not the list of counts: another count on it leaves those that are there as they are.
        settings=settings_of("image_counts", "tolerance", "n_samples"),
    script:
        "../scripts/vary_images.py"


rule time_passes:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("time_passes"),
    output:
        run="<artifacts>/networks/{network}/passes.run.json",
    log:
        "<logs>/time_passes/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
        settings=settings_of("passes"),
    script:
        "../scripts/time_passes.py"
