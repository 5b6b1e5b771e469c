# The page about the networks; the paper, compiled by typst from the manuscript and the files drawn above; the report's introduction.


report: "../report/workflow.rst"


rule compile_paper:
    input:
        manuscript="paper/paper.typ",
        parts=sorted(map(str, Path("paper").glob("*.typ"))),
        bibliography="paper/references.bib",
        figures=expand(rules.draw_figure.output.pdf, figure=FIGURES),
        tables=rules.make_tables.output,
        claims=rules.decide_claims.output,
        benchmarks=expand(
            "results/archive/benchmarks/{file}",
            file=["cpu.csv", "cpu.pdf", "training_cpu.csv"],
        ),
        # The appendix shows the companion's figures; its manifest stands for all its files.
        companion=["<shared>/manifest.sha256"] if COMPANION else [],
        code=code("compile_paper"),
    output:
        # The text reads its settings from what the rules were given, defaults and command line included.
        configuration="<drawn>/configuration.yaml",
        pdf=report(
            "<drawn>/paper.pdf",
            caption="../report/paper.rst",
            category="2. Paper",
            labels={"document": "paper"},
        ),
    log:
        "<logs>/compile_paper/paper.log",
    params:
        configuration=COMPLETE,
    run:
        run_script(rule, input, output, params, wildcards, log)


rule make_page:
    input:
        **{name: evidence(name) for name in registry.STANDARD},
        style=STYLE,
        code=code("make_page"),
    output:
        page=f"<drawn>/{PROFILE}.html",
    log:
        "<logs>/make_page/page.log",
    params:
        networks=COMPLETE["networks"],
        settings={
            key: COMPLETE[key] for key in ("seed", "device", "precision", "threads")
        },
        data=COMPLETE["data"],
        title=f"Profile {PROFILE}",
    run:
        run_script(rule, input, output, params, wildcards, log)


rule page:
    """What these networks look like, on one page."""
    input:
        rules.make_page.output,
