# One rule for each analysis, of its name. One that is computed in shards has a second rule for these.

for name, analysis in {
    name: registry.analysis(name) for name in (*OF_NETWORKS, *OF_PROFILE)
}.items():
    of_network = name in OF_NETWORKS
    made = shard(name) if analysis.is_sharded else artifact(name)
    stage = f"{name}_shard" if analysis.is_sharded else name

    rule:
        name:
            stage
        input:
            **read_by(analysis.reads),
            **{"checkpoint": f"{NETWORK}/checkpoint.safetensors"} if of_network else {},
            code=code(
                "analyze_network" if of_network else "analyze",
                analysis.file,
                without=["gather"],
            ),
        output:
            **{"artifact": made} if analysis.has_dataset else {},
            **(
                {analysis.tensors: f"{NETWORK}/{analysis.tensors}.safetensors"}
                if analysis.tensors
                else {}
            ),
            run=record(made),
        log:
            record(made)
            .replace("<artifacts>", f"<logs>/{stage}")
            .replace(".run.json", ".log"),
        conda:
            "../../environment.yml"
        threads: config["threads"]
        resources:
            **GPU if of_network or analysis.has_data else {},
        params:
            **COMMON if of_network or analysis.has_data else ON_CPU,
            **{"network": studied_network} if of_network else {},
            **(
                {"data_settings": config["data"][config["analyses"][name]["data"]]}
                if analysis.has_data
                else {}
            ),
            **told(name, "run"),
        script:
            ("../scripts/analyze_network.py" if of_network else "../scripts/analyze.py")

    if analysis.is_sharded:

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
                record(artifact(name))
                .replace("<artifacts>", f"<logs>/{name}")
                .replace(".run.json", ".log"),
            conda:
                "../../environment.yml"
            threads: config["threads"]
            params:
                **ON_CPU,
                **told(name, "gather"),
            script:
                "../scripts/gather.py"
