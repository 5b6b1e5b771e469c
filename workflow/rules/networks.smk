# Data → models → checkpoints.


rule train_network:
    input:
        own=own_files,
        code=code("train_network"),
    output:
        checkpoint=f"{TRAINING}/checkpoint.safetensors",
        history=f"{TRAINING}/history.nc",
        snapshots=f"{TRAINING}/snapshots.safetensors",
        run=f"{TRAINING}/checkpoint.run.json",
    log:
        "<logs>/train_network/{network}.log",
    wildcard_constraints:
        network=any_of(TRAINED),
    group:
        group_of("train_network")
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **resources_of("train_network"),
    params:
        **COMMON,
        network=initial_network,
        own_data=own_data,
        training=lambda wildcards: config["networks"][wildcards.network]["training"],
        # What the trained weights are rounded to before they are kept, and analysed.
        checkpoint_precision=lambda wildcards: config["networks"][wildcards.network][
            "checkpoint_precision"
        ],
    script:
        "../scripts/train_network.py"


rule import_checkpoint:
    input:
        own=own_files,
        code=code("import_checkpoint"),
    output:
        checkpoint=f"{TRAINING}/checkpoint.safetensors",
        run=f"{TRAINING}/checkpoint.run.json",
    log:
        "<logs>/import_checkpoint/{network}.log",
    wildcard_constraints:
        network=any_of(name for name in NETWORK_NAMES if name not in TRAINED),
    group:
        group_of("import_checkpoint")
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **resources_of("import_checkpoint", uses_device=False),
    params:
        # Reading and scoring weights needs no GPU, and none is asked for.
        **COMMON | {"device": "cpu"},
        network=initial_network,
        own_data=own_data,
        checkpoint=lambda wildcards: config["networks"][wildcards.network]["checkpoint"],
    script:
        "../scripts/import_checkpoint.py"
