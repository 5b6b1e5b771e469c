# One rule for each analysis, of its name. One that is computed in shards has a second rule for these.

for name in filter(is_computed, OF_NETWORKS):
    analysis = registry.analysis(name)
    stage = stage_of(name)

    rule:
        name:
            stage
        input:
            **read_by(analysis.reads),
            other_checkpoints=other_checkpoints(name),
            checkpoint=f"{TRAINING}/checkpoint.safetensors",
            own=studied_files,
            code=code(
                "analyze_network",
                analysis.file,
                without=["gather"] if is_sharded(name) else [],
            ),
        output:
            **made_by(name),
        log:
            log_of(name, stage),
        group:
            group_of(stage)
        conda:
            "../../environment.yml"
        threads: max(config["threads"], config["processes"])
        resources:
            **resources_of(stage, processes=config["processes"]),
        params:
            **COMMON,
            **PROCESSES,
            **told(name, "run"),
            network=studied_network,
            own_data=own_data,
        script:
            "../scripts/analyze_network.py"


for name in filter(is_computed, OF_PROFILE):
    analysis = registry.analysis(name)
    stage = stage_of(name)

    rule:
        name:
            stage
        input:
            own=own_inputs(config["analyses"][name]),
            code=code("analyze", analysis.file, without=["gather"]),
        output:
            **made_by(name),
        log:
            log_of(name, stage),
        group:
            group_of(stage)
        conda:
            "../../environment.yml"
        threads: config["threads"]
        resources:
            **resources_of(stage, uses_device=analysis.has_data),
        params:
            **COMMON if analysis.has_data else ON_CPU,
            **data_of(name),
            **told(name, "run"),
        script:
            "../scripts/analyze.py"


for name in filter(is_sharded, filter(is_computed, [*OF_NETWORKS, *OF_PROFILE])):
    analysis = registry.analysis(name)

    rule:
        name:
            name
        input:
            **read_by(analysis.gather_reads),
            shards=shards_of(name),
            code=code("gather", analysis.file, without=["run"]),
        output:
            artifact=artifact(name),
            run=record(artifact(name)),
        log:
            log_of(name, name),
        group:
            group_of(name)
        conda:
            "../../environment.yml"
        threads: config["threads"]
        resources:
            **resources_of(name, uses_device=False),
        params:
            **ON_CPU,
            **told(name, "gather"),
        script:
            "../scripts/gather.py"
