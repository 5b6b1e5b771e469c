# One rule for each analysis, of its name. One that is computed in shards has a second rule for these.

for name in OF_NETWORKS:
    analysis = registry.analysis(name)
    stage = f"{name}_shard" if analysis.is_sharded else name

    rule:
        name:
            stage
        input:
            **read_by(analysis.reads),
            checkpoint=f"{NETWORK}/checkpoint.safetensors",
            code=code("analyze_network", analysis.file, without=["gather"]),
        output:
            **made_by(name),
        log:
            log_of(name, stage),
        conda:
            "../../environment.yml"
        threads: config["threads"]
        resources:
            **GPU,
        params:
            **COMMON,
            **told(name, "run"),
            network=studied_network,
        script:
            "../scripts/analyze_network.py"


for name in OF_PROFILE:
    analysis = registry.analysis(name)
    stage = f"{name}_shard" if analysis.is_sharded else name

    rule:
        name:
            stage
        input:
            code=code("analyze", analysis.file, without=["gather"]),
        output:
            **made_by(name),
        log:
            log_of(name, stage),
        conda:
            "../../environment.yml"
        threads: config["threads"]
        resources:
            **GPU if analysis.has_data else {},
        params:
            **COMMON if analysis.has_data else ON_CPU,
            **data_of(name),
            **told(name, "run"),
        script:
            "../scripts/analyze.py"


for name in filter(is_sharded, [*OF_NETWORKS, *OF_PROFILE]):
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
        conda:
            "../../environment.yml"
        threads: config["threads"]
        params:
            **ON_CPU,
            **told(name, "gather"),
        script:
            "../scripts/gather.py"
