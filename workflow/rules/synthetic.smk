# Saddles whose curvature is known in closed form.


rule analyze_saddles:
    input:
        code=code("analyze_saddles"),
    output:
        saddles="<artifacts>/synthetic/saddles.nc",
        run="<artifacts>/synthetic/saddles.run.json",
    log:
        "<logs>/analyze_saddles/saddles.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    params:
        **ON_CPU,
        synthetic=config["synthetic"],
    script:
        "../scripts/analyze_saddles.py"


rule compare_saddle_traces:
    input:
        code=code("compare_saddle_traces"),
    output:
        traces="<artifacts>/synthetic/traces.nc",
        run="<artifacts>/synthetic/traces.run.json",
    log:
        "<logs>/compare_saddle_traces/traces.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    params:
        **ON_CPU,
        synthetic=config["synthetic"],
        fit_points=config["analyses"]["traces"]["fit_points"],
    script:
        "../scripts/compare_saddle_traces.py"
