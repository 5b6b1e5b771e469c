# Saddles whose curvature is known in closed form.


rule analyze_saddles:
    input:
        code=code("analyze_saddles"),
    output:
        saddles=ARTIFACTS + "/synthetic/saddles.nc",
        run=ARTIFACTS + "/synthetic/saddles.run.json",
    params:
        **COMMON,
        synthetic=config["synthetic"],
    log:
        "logs/" + PROFILE + "/analyze_saddles/saddles.log",
    threads: config["threads"]
    conda:
        "../../environment.yml"
    script:
        "../scripts/analyze_saddles.py"


rule compare_saddle_traces:
    input:
        code=code("compare_saddle_traces"),
    output:
        traces=ARTIFACTS + "/synthetic/traces.nc",
        run=ARTIFACTS + "/synthetic/traces.run.json",
    params:
        **COMMON,
        synthetic=config["synthetic"],
        fit_points=config["analyses"]["traces"]["fit_points"],
    log:
        "logs/" + PROFILE + "/compare_saddle_traces/traces.log",
    threads: config["threads"]
    conda:
        "../../environment.yml"
    script:
        "../scripts/compare_saddle_traces.py"
