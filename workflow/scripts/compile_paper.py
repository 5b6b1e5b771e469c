"""Compile the manuscript; its figures and numbers come from the results folder it is given."""

from pathlib import Path
from typing import TYPE_CHECKING

import typst
from stage import stage

from hessian_directions import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    # No system fonts and no date: the same inputs give the same PDF on every machine.
    pdf = typst.compile(
        job.input.manuscript,
        root=".",
        ignore_system_fonts=True,
        sys_inputs={
            "results": f"/{Path(job.input.claims[0]).parent}",
            "profile": job.params.profile,
            "config": f"/{job.input.config}",
        },
    )
    with artifacts.atomic_path(job.output.pdf) as path:
        path.write_bytes(pdf)
