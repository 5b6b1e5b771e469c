"""hessian-directions: from data to the paper's PDF.

    snakemake figures --configfile config/demo.yaml                           # from the archive
    snakemake figures --configfile config/demo.yaml --config source=compute   # from scratch

The grammar of results/, written here and nowhere else:

    results/archive/<profile>/      what was computed once and committed, never written by a rule
    results/computed/<profile>/     the same, made on this machine (source: compute)
    results/redrawn/<profile>/      drawings made on this machine from the archive (source: archive)

      networks/<network>/           checkpoint.safetensors, history.nc, snapshots.safetensors, measurements.nc,
                                    eigenpairs.nc, eigenvectors.safetensors, reference_trace.nc, projections.nc,
                                    traces.nc, step_sizes.nc, spectrum.nc, profiles.nc, planes.nc, trajectory.nc,
                                    passes.run.json,
                                    image_counts/<n>.nc               n: number of images
                                    surfaces/<plane>.nc               plane: random, hessian
                                    shards/<plane>/<k>.nc             rows of a surface
                                    shards/projections/<k>.nc         random planes
      synthetic/                    saddles.nc, traces.nc
      population/members_<job>.nc   population.nc
      figures/<figure>.pdf, .png    animations/<animation>.gif    tables/<table>.csv
      claims.csv  claim_rows.csv  configuration.yaml  paper.pdf  report.html
      comparison.csv  comparison_verdicts.csv  comparison.txt
      <artifact>.run.json           beside each artifact: host, wall time, memory

    results/archive/benchmarks/     beside other tools, made by `make benchmarks`

A profile with a companion has no synthetic/ and population/: it reads those of the companion's archive.
"""


include: "workflow/rules/common.smk"  # configuration, paths, which source files a stage uses


if SOURCE == "compute":

    include: "workflow/rules/networks.smk"  # data → models → checkpoints
    include: "workflow/rules/curvature.smk"  # directions, traces, spectra, surfaces

    if not COMPANION:

        include: "workflow/rules/synthetic.smk"  # saddles in closed form
        include: "workflow/rules/population.smk"  # flatness against generalization


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
        rules.decide_claims.output,
        rules.compile_paper.output,


rule reproduce:
    """The same, set beside the archive's numbers."""
    input:
        rules.figures.input,
        rules.compare_with_archive.output,
