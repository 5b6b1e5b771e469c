"""Track curvature along training."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem, trajectory
from hessian_directions.learning.training import Snapshots
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    vectors = studied.vectors(artifacts.read_tensors(job.input.eigenvectors)["vectors"])
    snapshots = Snapshots.from_arrays(artifacts.read_tensors(job.input.snapshots))
    dataset = trajectory.track(
        studied,
        snapshots,
        vectors,
        job.params.settings,
        seeds.derive(job.params.seed, "trajectory"),
        job.progress,
    )
    artifacts.write_dataset(job.output.trajectory, dataset, job.provenance(studied.identity()))
