"""An analysis' inputs and outputs as files."""

import math
from typing import Any

from hessian_directions.analyses import registry
from hessian_directions.analyses.job import SAVE_SECONDS, Job
from hessian_directions.analyses.registry import Analysis
from hessian_directions.reproduction import artifacts

# Inputs that no analysis reads itself.
OTHERS = {"checkpoint", "code", "own", "shards", "other_checkpoints"}


def job_of(stage: Any) -> Job:
    """What an analysis is told of its job."""
    analysis = registry.analysis(stage.params.analysis)
    others = analysis.other_networks(stage.params.settings)
    return Job(
        seed=stage.params.seed,
        read={
            name: artifacts.read(path) for name, path in stage.input.items() if name not in OTHERS
        },
        part=getattr(stage.wildcards, "part", ""),
        shard=int(getattr(stage.wildcards, "shard", 0)),
        announce=stage.progress,
        state_path=stage.state_path(stage.output[0]),
        save_seconds=math.inf if stage.rank else SAVE_SECONDS,
        record=stage.record,
        data=stage.params.get("data_settings", {}),
        device=stage.params.device,
        precision=stage.params.precision,
        cache=stage.cache,
        folder=stage.folder,
        network=getattr(stage.wildcards, "network", ""),
        # The files of the other networks that the analysis reads, by name.
        checkpoints=dict(zip(others, stage.input.get("other_checkpoints", []))),
    )


def write(stage: Any, analysis: Analysis, result: Any, identity: dict[str, Any]) -> None:
    """Write what an analysis returned: nothing, a dataset, or a dataset and large arrays."""
    if stage.rank:
        return
    provenance = stage.provenance(identity)
    if analysis.tensors is not None:
        result, arrays = result
        artifacts.write_tensors(stage.output[analysis.tensors], arrays, provenance)
    if analysis.has_dataset:
        artifacts.write_dataset(stage.output.artifact, result, provenance)
