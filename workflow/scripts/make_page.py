"""One self-contained page about the networks of a profile."""

from typing import TYPE_CHECKING

import artifact_inputs
from stage import stage

from hessian_directions.reporting import page
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    read = artifact_inputs.load(job.input)
    networks = {}
    for name, settings in job.params.networks.items():
        own = {analysis: of[name] for analysis, of in read.items() if name in of}
        networks[name] = page.Results(
            label=settings["label"],
            settings=job.params.settings
            | {key: value for key, value in settings.items() if value is not None}
            | {"data": job.params.data[settings["data"]]},
            **own,
        )
    with artifacts.atomic_path(job.output.page) as path:
        path.write_text(page.render(networks, title=job.params.title))
