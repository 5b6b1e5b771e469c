"""hessian-directions: from data to the paper's PDF.

    snakemake figures --configfile config/demo.yaml                           # from the archive
    snakemake figures --configfile config/demo.yaml --config source=compute   # from scratch

The grammar of results/, written here and nowhere else:

    results/archive/<profile>/      what was computed once and committed, never written by a rule
    results/computed/<profile>/     the same, made on this machine
    results/redrawn/<profile>/      drawings made on this machine from the archive

      networks/<network>/           checkpoint.safetensors, history.nc, snapshots.safetensors, eigenvectors.safetensors,
        <analysis>.nc               analysis: a module of src/hessian_directions/analyses
        <analysis>/<part>.nc        part: the plane of a slice, the number of images
        shards/<analysis>/          what large analyses are gathered from
      <analysis>.nc                 of no network: saddles, saddle_traces, population
      shards/<analysis>/
      figures/<figure>.pdf, .png    animations/<animation>.gif    tables/<table>.csv
      claims.csv  claim_rows.csv  configuration.yaml  paper.pdf  report.html
      comparison.csv  comparison_verdicts.csv  comparison.txt
      <artifact>.run.json           beside each artifact: host, wall time, memory

    results/archive/benchmarks/     beside other tools, made by `make benchmarks`

A profile with a companion shows the saddles and the population of the companion's archive.
"""


include: "workflow/rules/common.smk"  # configuration, paths, which source files a stage uses


if SOURCE == "compute":

    include: "workflow/rules/networks.smk"  # data → models → checkpoints
    include: "workflow/rules/analyses.smk"  # one rule an analysis


include: "workflow/rules/evidence.smk"  # what drawings and verdicts read
include: "workflow/rules/drawing.smk"  # figures, animations, tables
include: "workflow/rules/verdicts.smk"  # claims, comparison with the archive
include: "workflow/rules/documents.smk"  # the paper


rule figures:
    """Every figure, table and verdict, and the paper."""
    default_target: True
    input:
        READ,
        rules.draw_figures.input,
        rules.make_tables.output,
        # The claims and the paper are about saddles and a population, too.
        (
            [*rules.decide_claims.output, *rules.compile_paper.output]
            if set(SHOWN) == set(registry.OF_PROFILES)
            else rules.make_page.output
        ),


rule reproduce:
    """The same, set beside the archive's numbers."""
    input:
        rules.figures.input,
        rules.compare_with_archive.output,
