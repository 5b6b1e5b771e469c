# The report; the paper about two archives, compiled by typst from the manuscript and what was drawn; the introduction of Snakemake's own report.

from hessian_directions.reporting.report import beyond
from hessian_directions.reproduction import cost_model


report: "../report/workflow.rst"


rule record_configuration:
    input:
        code=code("record_configuration"),
    output:
        # Texts and archives read what the rules were given, defaults and command line included.
        configuration="<drawn>/configuration.yaml",
    log:
        "<logs>/record_configuration/configuration.log",
    localrule: True
    params:
        configuration=COMPLETE,
    run:
        run_script(rule, input, output, params, wildcards, log)


if COMPANION:
    # The manuscript is about one run of networks and one with saddles of its own.
    ROLES = ("demo", "main") if "saddles" in OF_PROFILE else ("main", "demo")
    # How much a comparison with the demo's archive notices, where that archive says so.
    DEMO = Path(ARCHIVE if ROLES[0] == "demo" else SHARED)
    POWER = DEMO / "comparison_power.csv"

    rule compile_paper:
        input:
            manuscript="paper/paper.typ",
            parts=sorted(map(str, Path("paper").glob("*.typ"))),
            bibliography="paper/references.bib",
            shown="paper/figures.yaml",
            configuration=rules.record_configuration.output.configuration,
            figures=expand("<drawn>/figures/{figure}.pdf", figure=FIGURES),
            tables=rules.make_tables.output,
            claims=rules.decide_claims.output,
            benchmarks=expand(
                "results/archive/benchmarks/{table}.csv",
                table=("cpu", "kills", "population", "predictions", "scaling", "slurm"),
            ),
            # The companion's manifest stands for all its files.
            companion="<shared>/manifest.sha256",
            power=[str(POWER)] if POWER.exists() else [],
            # The verdicts with other seeds.
            replicates=sorted(map(str, DEMO.glob("replicates/*/claims.csv"))),
            code=code("compile_paper"),
        output:
            pdf=report(
                "<drawn>/paper.pdf",
                caption="../report/paper.rst",
                category="2. Paper",
                labels={"document": "paper"},
            ),
        log:
            "<logs>/compile_paper/paper.log",
        localrule: True
        params:
            role=ROLES[0],
            companion_role=ROLES[1],
        run:
            run_script(rule, input, output, params, wildcards, log)


REPORT = "src/hessian_directions/reporting/report"
PASSES = cost_model.path_of(PROFILE)


rule make_report:
    input:
        **{
            name: evidence(name)
            for name in (*registry.STANDARD, *beyond.OF_NETWORKS, *registry.OF_PROFILES)
        },
        claims=rules.decide_claims.output.claims if JUDGED else [],
        claim_rows=rules.decide_claims.output.rows if JUDGED else [],
        comparison=rules.compare_with_archive.output.comparison if COMPARABLE else [],
        comparison_verdicts=rules.compare_with_archive.output.verdicts if COMPARABLE else [],
        comparison_summary=rules.compare_with_archive.output.summary if COMPARABLE else [],
        configuration=rules.record_configuration.output.configuration,
        records=RECORDS if "cost" in TABLES else [],
        # Written before a run starts, or not at all.
        measured=[str(PASSES)] if COMPUTES and PASSES.exists() else [],
        assets=[local(f"{REPORT}/report.css"), local(f"{REPORT}/report.js")],
        code=code("make_report"),
    output:
        report="<drawn>/report.html",
    log:
        "<logs>/make_report/report.log",
    localrule: True
    params:
        # Which figures are drawn from an artifact.
        figures={
            figure: sorted(map(resolved, paths_in(says["inputs"])))
            for figure, says in FIGURES.items()
        },
    run:
        run_script(rule, input, output, params, wildcards, log)


rule page:
    """What these networks look like, to be explored, with the figures that the report links to."""
    input:
        rules.make_report.output,
        rules.draw_figures.input,
