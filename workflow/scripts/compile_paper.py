"""Compile the manuscript; its figures and numbers come from the results folder it is given."""

from pathlib import Path
from typing import TYPE_CHECKING

import typst
import yaml
from stage import stage

from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    with artifacts.atomic_path(job.output.configuration) as path:
        path.write_text(
            yaml.safe_dump(job.params.configuration, allow_unicode=True, sort_keys=False)
        )
    manifests = job.input.companion
    companion = {"companion": f"/{Path(manifests[0]).parent}"} if manifests else {}
    # No system fonts and no date: the same inputs give the same PDF on every machine.
    pdf = typst.compile(
        job.input.manuscript,
        root=".",
        ignore_system_fonts=True,
        sys_inputs={
            "results": f"/{Path(job.input.claims[0]).parent}",
            "profile": job.params.configuration["profile"],
            "config": f"/{job.output.configuration}",
        }
        | companion,
    )
    with artifacts.atomic_path(job.output.pdf) as path:
        path.write_bytes(pdf)
