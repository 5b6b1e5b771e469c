"""hessian-directions: from data to the paper's PDF.

    snakemake figures --configfile config/demo.yaml                           # from the archive
    snakemake figures --configfile config/demo.yaml --config source=compute   # from scratch

The grammar of results/, written here and nowhere else:

    results/archive/<profile>/      what was computed once and committed, never written by a rule
    results/computed/<profile>/     the same, made on this machine
    results/redrawn/<profile>/      drawings made on this machine from the archive
    results/recomputed/<profile>/   analyses made on this machine of the archive's weights
    results/replicates/<profile>/<seed>/    all made on this machine once more, with another seed

      networks/<network>/           checkpoint.safetensors, history.nc, snapshots.safetensors, eigenvectors.safetensors,
        <analysis>.nc               analysis: a module of src/hessian_directions/analyses
        <analysis>/<part>.nc        part: the plane of a slice, the number of images
        shards/<analysis>/          what large analyses are gathered from
      <analysis>.nc                 of no network: saddles, saddle_traces, population
      shards/<analysis>/
      figures/<figure>.pdf, .png    animations/<figure>.gif    tables/<table>.csv
      passes.json                   what passes of the networks take, measured before a run
      claims.csv  claim_rows.csv  configuration.yaml  paper.pdf  report.html  provenance.html
      comparison.csv  comparison_verdicts.csv  comparison_power.csv  comparison.txt
      replicates/<seed>/            of an archive: tables, claims, settings.yaml, checkpoints.json
      history.md                    of an archive: what changed and when, written by hand
      <artifact>.run.json           beside each artifact: host, wall time, memory

    results/archive/benchmarks/     beside other tools, made by `make benchmarks`

A profile with a companion has a paper about both. Saddles and a population that it does not compute itself are those of the
companion's archive.
"""


include: "workflow/rules/common.smk"  # configuration, paths, which source files a stage uses
include: "workflow/rules/run.smk"  # one run at a time, how far it is


if COMPUTES:

    include: "workflow/rules/resources.smk"  # what jobs ask a cluster for


if TRAINS:

    include: "workflow/rules/networks.smk"  # data → models → checkpoints


if COMPUTES:

    include: "workflow/rules/analyses.smk"  # one rule an analysis


include: "workflow/rules/evidence.smk"  # what drawings and verdicts read
include: "workflow/rules/drawing.smk"  # figures, animations, tables
include: "workflow/rules/verdicts.smk"  # claims, comparison with the archive
include: "workflow/rules/documents.smk"  # the report, the paper


rule figures:
    """Every figure, table and verdict, the report and, of a profile with a companion, the paper."""
    default_target: True
    input:
        READ,
        rules.draw_figures.input,
        rules.make_tables.output,
        rules.record_configuration.output,
        rules.decide_claims.output if JUDGED else [],
        rules.make_report.output,
        # The paper is about two archives.
        rules.compile_paper.output if COMPANION else [],


rule reproduce:
    """The same, set beside the archive's numbers."""
    input:
        rules.figures.input,
        rules.compare_with_archive.output,


rule recompute:
    """Analyses of the archive's weights, set beside its numbers (source=recompute)."""
    input:
        rules.compare_with_archive.output,
        rules.make_report.output,


rule replicate:
    """What the archive keeps of another seed (source=replicate)."""
    input:
        rules.make_tables.output,
        rules.decide_claims.output if JUDGED else [],
        rules.record_replicate.output,
