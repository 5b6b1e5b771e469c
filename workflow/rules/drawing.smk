# Figures, animations and tables: they read artifacts, import no torch, and are redrawn from the archive.


rule draw_figure:
    input:
        unpack(lambda wildcards: DRAWINGS[wildcards.figure]["inputs"]),
        style=local("src/hessian_directions/reporting/figures/style.mplstyle"),
        code=lambda wildcards: code("draw_figure", DRAWINGS[wildcards.figure]["file"]),
    output:
        pdf="<drawn>/figures/{figure}.pdf",
        png=shown("<drawn>/figures/{figure}.png"),
    log:
        "<logs>/draw_figure/{figure}.log",
    wildcard_constraints:
        figure=any_of(FIGURES),
    localrule: True
    params:
        module=lambda wildcards: DRAWINGS[wildcards.figure]["module"],
        arguments=lambda wildcards: DRAWINGS[wildcards.figure].get("arguments", {}),
        labels=LABELS,
        caption=lambda wildcards: DRAWINGS[wildcards.figure]["caption"],
    run:
        run_script("draw_figure", input, output, params, wildcards, log)


use rule draw_figure as draw_animation with:
    output:
        gif=shown("<drawn>/animations/{figure}.gif"),
    log:
        "<logs>/draw_animation/{figure}.log",
    wildcard_constraints:
        figure=any_of(ANIMATIONS),


rule draw_figures:
    input:
        expand("<drawn>/figures/{figure}.{suffix}", figure=FIGURES, suffix=["pdf", "png"]),
        expand("<drawn>/animations/{animation}.gif", animation=ANIMATIONS),


rule make_tables:
    input:
        **TABLE_INPUTS,
        records=RECORDS if "cost" in TABLES else [],
        code=code("make_tables"),
    output:
        **{
            table: report(
                f"<drawn>/tables/{table}.csv",
                caption="../report/table.rst",
                category="Tables",
                labels={"table": table.replace("_", " ")},
            )
            for table in TABLES
        },
    log:
        "<logs>/make_tables/tables.log",
    localrule: True
    params:
        labels=LABELS,
    run:
        run_script(rule, input, output, params, wildcards, log)
