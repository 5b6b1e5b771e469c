"""Compile the manuscript about two archives: from what this run drew, and from its companion's archive."""

import json
from pathlib import Path

import typst
import yaml
from stage import stage

from hessian_directions.errors import ArtifactError
from hessian_directions.reproduction import artifacts

with stage(snakemake) as job:
    folders = {
        job.params.role: Path(job.input.configuration).parent,
        job.params.companion_role: Path(job.input.companion).parent,
    }
    for role, figures in yaml.safe_load(Path(job.input.shown).read_text()).items():
        for path in (folders[role] / f"figures/{figure}.pdf" for figure in figures):
            if not path.is_file():
                raise ArtifactError(f"{path} is missing, and {job.input.shown} lists it")
    inputs = {role: f"/{folder}" for role, folder in folders.items()}
    inputs["replicates"] = ",".join(f"/{path}" for path in job.input.replicates)
    if job.input.power:
        inputs["power"] = f"/{job.input.power[0]}"
    # No system fonts and no date: the same inputs give the same PDF on every machine.
    compiler = typst.Compiler(
        job.input.manuscript, root=".", ignore_system_fonts=True, sys_inputs=inputs
    )
    try:
        pdf = compiler.compile()
    except typst.TypstError as error:
        raise ArtifactError(f"{job.input.manuscript} cannot be compiled: {error}") from error
    with artifacts.atomic_path(job.output.pdf) as path:
        path.write_bytes(pdf)
    if n := len(json.loads(compiler.query("<unsupported>"))):
        job.log.warning(f"{n} sentences are marked: the numbers do not support them")
