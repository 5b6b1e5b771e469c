# Data → models → checkpoints, and what a checkpoint scores.


rule train_network:
    input:
        own_files,
        code=code("train_network"),
    output:
        checkpoint="<artifacts>/networks/{network}/checkpoint.safetensors",
        history="<artifacts>/networks/{network}/history.nc",
        snapshots="<artifacts>/networks/{network}/snapshots.safetensors",
        run="<artifacts>/networks/{network}/checkpoint.run.json",
    log:
        "<logs>/train_network/{network}.log",
    wildcard_constraints:
        network=any_of(network for network in NETWORK_NAMES if is_trained(network)),
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=initial_network,
        training=lambda wildcards: config["networks"][wildcards.network]["training"],
        checkpoint_precision=checkpoint_precision,
    script:
        "../scripts/train_network.py"


rule import_checkpoint:
    input:
        own_files,
        code=code("import_checkpoint"),
    output:
        checkpoint="<artifacts>/networks/{network}/checkpoint.safetensors",
        run="<artifacts>/networks/{network}/checkpoint.run.json",
    log:
        "<logs>/import_checkpoint/{network}.log",
    wildcard_constraints:
        network=any_of(network for network in NETWORK_NAMES if not is_trained(network)),
    conda:
        "../../environment.yml"
    threads: config["threads"]
    params:
        # Reading and scoring weights needs no GPU, and none is asked for.
        **COMMON | {"device": "cpu"},
        network=initial_network,
        checkpoint=lambda wildcards: config["networks"][wildcards.network]["checkpoint"],
    script:
        "../scripts/import_checkpoint.py"


rule measure_network:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("measure_network"),
    output:
        measurements="<artifacts>/networks/{network}/measurements.nc",
        run="<artifacts>/networks/{network}/measurements.run.json",
    log:
        "<logs>/measure_network/{network}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=studied_network,
    script:
        "../scripts/measure_network.py"
