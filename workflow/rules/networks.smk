# Data → models → checkpoints, and what a checkpoint scores.


rule train_network:
    input:
        code=code("train_network"),
    output:
        checkpoint=NETWORKS + "/checkpoint.safetensors",
        history=NETWORKS + "/history.nc",
        snapshots=NETWORKS + "/snapshots.safetensors",
        run=NETWORKS + "/checkpoint.run.json",
    params:
        **COMMON,
        network=network_settings,
        training=lambda wildcards: config["networks"][wildcards.network]["training"],
    log:
        "logs/" + PROFILE + "/train_network/{network}.log",
    wildcard_constraints:
        network=any_of(network for network in NETWORK_NAMES if is_trained(network)),
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/train_network.py"


rule import_checkpoint:
    input:
        code=code("import_checkpoint"),
    output:
        checkpoint=NETWORKS + "/checkpoint.safetensors",
        run=NETWORKS + "/checkpoint.run.json",
    params:
        **COMMON,
        network=network_settings,
        checkpoint=lambda wildcards: config["networks"][wildcards.network]["checkpoint"],
    log:
        "logs/" + PROFILE + "/import_checkpoint/{network}.log",
    wildcard_constraints:
        network=any_of(network for network in NETWORK_NAMES if not is_trained(network)),
    threads: config["threads"]
    conda:
        "../../environment.yml"
    script:
        "../scripts/import_checkpoint.py"


rule measure_network:
    input:
        checkpoint=rules.train_network.output.checkpoint,
        code=code("measure_network"),
    output:
        measurements=NETWORKS + "/measurements.nc",
        run=NETWORKS + "/measurements.run.json",
    params:
        **COMMON,
        network=network_settings,
    log:
        "logs/" + PROFILE + "/measure_network/{network}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/measure_network.py"
