# Flatness against generalization: many classifiers that differ in how they were trained.


rule train_population:
    input:
        code=code("train_population"),
    output:
        members="<artifacts>/population/members_{job}.nc",
        run="<artifacts>/population/members_{job}.run.json",
    log:
        "<logs>/train_population/{job}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **GPU,
    params:
        **COMMON,
        # How the members are compared later is no part of what they are.
        population={
            key: value
            for key, value in config["population"].items()
            if key not in ("data", "n_bootstrap")
        },
        data_settings=config["data"][config["population"]["data"]],
    script:
        "../scripts/train_population.py"


rule gather_population:
    input:
        members=expand(
            rules.train_population.output.members,
            job=range(config["population"]["n_jobs"]),
        ),
        code=code("gather_population"),
    output:
        population="<artifacts>/population.nc",
        run="<artifacts>/population.run.json",
    log:
        "<logs>/gather_population/population.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    params:
        **COMMON,
        population={
            key: config["population"][key]
            for key in ("factors", "rescaling", "n_bootstrap")
        },
    script:
        "../scripts/gather_population.py"
