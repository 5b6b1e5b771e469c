# Flatness against generalization: many classifiers that differ in how they were trained.


rule train_population:
    input:
        code=code("train_population"),
    output:
        members=ARTIFACTS + "/population/members_{job}.nc",
        run=ARTIFACTS + "/population/members_{job}.run.json",
    params:
        **COMMON,
        # How the members are compared later is no part of what they are.
        population={
            key: value
            for key, value in config["population"].items()
            if key not in ("data", "n_bootstrap")
        },
        data_settings=config["data"][config["population"]["data"]],
    log:
        "logs/" + PROFILE + "/train_population/{job}.log",
    threads: config["threads"]
    resources:
        **GPU,
    conda:
        "../../environment.yml"
    script:
        "../scripts/train_population.py"


rule gather_population:
    input:
        members=expand(rules.train_population.output.members, job=range(config["population"]["n_jobs"])),
        code=code("gather_population"),
    output:
        population=ARTIFACTS + "/population.nc",
        run=ARTIFACTS + "/population.run.json",
    params:
        **COMMON,
        population={key: config["population"][key] for key in ("factors", "rescaling", "n_bootstrap")},
    log:
        "logs/" + PROFILE + "/gather_population/population.log",
    threads: config["threads"]
    conda:
        "../../environment.yml"
    script:
        "../scripts/gather_population.py"
