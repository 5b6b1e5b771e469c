# Figures, animations and tables: they read artifacts, import no torch, and are redrawn from the archive.


rule draw_figure:
    input:
        unpack(lambda wildcards: FIGURES[wildcards.figure][1]),
        style="src/hessian_directions/reporting/figures/style.mplstyle",
        code=lambda wildcards: code(
            "draw_figure",
            f"src/hessian_directions/reporting/figures/{FIGURES[wildcards.figure][0]}.py",
        ),
    output:
        pdf="<drawn>/figures/{figure}.pdf",
        png=report(
            "<drawn>/figures/{figure}.png",
            caption="../report/caption.rst",
            category=lambda wildcards: CAPTIONS[wildcards.figure]["category"],
            labels=lambda wildcards: {"figure": CAPTIONS[wildcards.figure]["title"]},
        ),
    log:
        "<logs>/draw_figure/{figure}.log",
    wildcard_constraints:
        figure=any_of(FIGURES),
    params:
        module=lambda wildcards: FIGURES[wildcards.figure][0],
        labels=LABELS,
        caption=lambda wildcards: CAPTIONS[wildcards.figure]["caption"],
    run:
        run_script(rule, input, output, params, wildcards, log)


rule draw_animation:
    input:
        unpack(lambda wildcards: ANIMATIONS[wildcards.animation][1]),
        style="src/hessian_directions/reporting/figures/style.mplstyle",
        code=lambda wildcards: code(
            "draw_animation",
            f"src/hessian_directions/reporting/figures/{ANIMATIONS[wildcards.animation][0]}.py",
        ),
    output:
        gif=report(
            "<drawn>/animations/{animation}.gif",
            caption="../report/caption.rst",
            category=lambda wildcards: CAPTIONS[wildcards.animation]["category"],
            labels=lambda wildcards: {
                "figure": CAPTIONS[wildcards.animation]["title"]
            },
        ),
    log:
        "<logs>/draw_animation/{animation}.log",
    wildcard_constraints:
        animation=any_of(ANIMATIONS),
    params:
        module=lambda wildcards: ANIMATIONS[wildcards.animation][0],
        labels=LABELS,
        caption=lambda wildcards: CAPTIONS[wildcards.animation]["caption"],
    run:
        run_script(rule, input, output, params, wildcards, log)


rule draw_figures:
    input:
        expand(rules.draw_figure.output, figure=FIGURES),
        expand(rules.draw_animation.output, animation=ANIMATIONS),


rule make_tables:
    input:
        **EVIDENCE,
        step_sizes=per_network("step_sizes.nc", studied("step_sizes")),
        profiles=per_network("profiles.nc", studied("profiles")),
        image_counts=IMAGE_COUNTS,
        histories=HISTORIES,
        passes=PASSES,
        records=RECORDS,
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
    params:
        labels=LABELS,
    run:
        run_script(rule, input, output, params, wildcards, log)
