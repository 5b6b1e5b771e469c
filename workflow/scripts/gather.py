"""The artifact of an analysis from its shards."""

from collections.abc import Sequence

import xarray as xr
from analysis_files import job_of
from stage import stage

from hessian_directions.analyses import registry
from hessian_directions.data.identity import differing
from hessian_directions.errors import DataError
from hessian_directions.reproduction import artifacts


class Shards(Sequence[xr.Dataset]):
    """Each is read when it is asked for: thousands of files need not be in memory at once."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number):
        return artifacts.read_dataset(self.paths[number])


with stage(snakemake) as job:
    analysis = registry.analysis(job.params.analysis)
    settings = analysis.settings.model_validate(job.params.settings)
    made, *others = map(artifacts.read_provenance, job.input.shards)
    # Shards of an analysis of no network have no checkpoint that tells whose data they are.
    if any(differing(made["data"], other["data"]) for other in others):
        raise DataError("the data are others in every job: give what is random in them a seed")
    dataset = analysis.module.gather(Shards(job.input.shards), settings, job_of(job))
    provenance = job.provenance(made["data"]) | {key: made[key] for key in ("device", "precision")}
    # What the shards were computed with, and what was said to the gathering beside that.
    provenance["configuration"] = made["configuration"] | provenance["configuration"]
    artifacts.write_dataset(job.output.artifact, dataset, provenance)
