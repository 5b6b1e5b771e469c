# Figures, animations and tables: they read artifacts, import no torch, and are redrawn from the archive.

STYLE = local("src/hessian_directions/reporting/figures/style.mplstyle")


rule draw_figure:
    input:
        unpack(lambda wildcards: FIGURES[wildcards.figure]["inputs"]),
        style=STYLE,
        code=lambda wildcards: code("draw_figure", FIGURES[wildcards.figure]["file"]),
    output:
        pdf="<drawn>/figures/{figure}.pdf",
        png=report(
            "<drawn>/figures/{figure}.png",
            caption="../report/caption.rst",
            category=lambda wildcards: FIGURES[wildcards.figure]["category"],
            labels=lambda wildcards: {"figure": FIGURES[wildcards.figure]["title"]},
        ),
    log:
        "<logs>/draw_figure/{figure}.log",
    wildcard_constraints:
        figure=any_of(FIGURES),
    localrule: True
    params:
        module=lambda wildcards: FIGURES[wildcards.figure]["module"],
        arguments=lambda wildcards: FIGURES[wildcards.figure].get("arguments", {}),
        labels=LABELS,
        caption=lambda wildcards: FIGURES[wildcards.figure]["caption"],
    run:
        run_script(rule, input, output, params, wildcards, log)


rule draw_animation:
    input:
        unpack(lambda wildcards: ANIMATIONS[wildcards.animation]["inputs"]),
        style=STYLE,
        code=lambda wildcards: code(
            "draw_animation", ANIMATIONS[wildcards.animation]["file"]
        ),
    output:
        gif=report(
            "<drawn>/animations/{animation}.gif",
            caption="../report/caption.rst",
            category=lambda wildcards: ANIMATIONS[wildcards.animation]["category"],
            labels=lambda wildcards: {
                "figure": ANIMATIONS[wildcards.animation]["title"]
            },
        ),
    log:
        "<logs>/draw_animation/{animation}.log",
    wildcard_constraints:
        animation=any_of(ANIMATIONS),
    localrule: True
    params:
        module=lambda wildcards: ANIMATIONS[wildcards.animation]["module"],
        labels=LABELS,
        caption=lambda wildcards: ANIMATIONS[wildcards.animation]["caption"],
    run:
        run_script(rule, input, output, params, wildcards, log)


rule draw_figures:
    input:
        expand(
            "<drawn>/figures/{figure}.{suffix}", figure=FIGURES, suffix=["pdf", "png"]
        ),
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
