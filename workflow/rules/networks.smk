# Data → models → checkpoints.


rule train_network:
    input:
        own_files,
        code=code("train_network"),
    output:
        checkpoint=f"{NETWORK}/checkpoint.safetensors",
        history=f"{NETWORK}/history.nc",
        snapshots=f"{NETWORK}/snapshots.safetensors",
        run=f"{NETWORK}/checkpoint.run.json",
    log:
        "<logs>/train_network/{network}.log",
    wildcard_constraints:
        network=any_of(TRAINED),
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        network=initial_network,
        training=lambda wildcards: config["networks"][wildcards.network]["training"],
        # What the trained weights are rounded to before they are kept, and analysed.
        checkpoint_precision=lambda wildcards: config["networks"][wildcards.network][
            "checkpoint_precision"
        ],
    script:
        "../scripts/train_network.py"


rule import_checkpoint:
    input:
        own_files,
        code=code("import_checkpoint"),
    output:
        checkpoint=f"{NETWORK}/checkpoint.safetensors",
        run=f"{NETWORK}/checkpoint.run.json",
    log:
        "<logs>/import_checkpoint/{network}.log",
    wildcard_constraints:
        network=any_of(name for name in NETWORK_NAMES if name not in TRAINED),
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
