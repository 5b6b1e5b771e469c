"""Set every published number beside the one computed here."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from stage import stage

from hessian_directions.reproduction import artifacts, comparison

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    archived, computed = (
        {Path(path).stem: pd.read_csv(path) for path in paths}
        for paths in (job.input.archived, job.input.computed)
    )
    others = comparison.OtherNetworks.between(
        *(
            {Path(path).parent.name: artifacts.read_tensors(path) for path in paths}
            for paths in (job.input.archived_checkpoints, job.input.computed_checkpoints)
        ),
        artifacts.read_dataset(job.input.archived_population),
        artifacts.read_dataset(job.input.computed_population),
    )
    numbers = comparison.compare_tables(archived, computed, job.params.tolerances, others)
    verdicts = comparison.compare_verdicts(
        pd.read_csv(job.input.archived_claims), pd.read_csv(job.input.computed_claims)
    )
    artifacts.write_table(job.output.comparison, numbers)
    artifacts.write_table(job.output.verdicts, verdicts)
    with artifacts.atomic_path(job.output.summary) as path:
        path.write_text(comparison.summary(numbers, verdicts, others) + "\n")
