"""Set every published number beside the one computed here."""

from pathlib import Path

import numpy as np
import pandas as pd
from stage import stage

from hessian_directions.reproduction import artifacts, comparison, scales


def tables(paths: list[str]) -> dict[str, pd.DataFrame]:
    return {Path(path).stem: pd.read_csv(path) for path in paths}


def tensors(paths: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """By network."""
    return {Path(path).parent.name: artifacts.read_tensors(path) for path in paths}


def vectors(paths: list[str]) -> dict[str, np.ndarray]:
    return {network: arrays["vectors"] for network, arrays in tensors(paths).items()}


with stage(snakemake) as job:
    archived, computed = tables(job.input.archived), tables(job.input.computed)
    runs: dict[str, list[str]] = {}
    for path in job.input.replicates:
        runs.setdefault(Path(path).parents[1].name, []).append(path)
    populations = [
        artifacts.read_dataset(path) if path else None
        for path in (job.input.get("archived_population"), job.input.get("computed_population"))
    ]
    others = comparison.other_networks(
        tensors(job.input.archived_checkpoints),
        tensors(job.input.computed_checkpoints),
        *populations,
    )
    numbers, acceptance = comparison.compare_tables(
        archived,
        computed,
        scales.of_subjects(
            job.params.configuration,
            archived,
            computed,
            vectors(job.input.archived_vectors),
            vectors(job.input.computed_vectors),
            populations[0],
        ),
        others,
        [tables(paths) for paths in runs.values()],
    )
    # Only a profile that has all that claims are about has verdicts.
    both = [job.input.get("archived_claims"), job.input.get("computed_claims")]
    claims = [pd.read_csv(path) if path else comparison.NO_CLAIMS for path in both]
    verdicts = comparison.compare_verdicts(*claims)
    artifacts.write_table(job.output.comparison, numbers)
    artifacts.write_table(job.output.verdicts, verdicts)
    artifacts.write_table(job.output.power, comparison.power(numbers))
    text = comparison.summary(job.params.level, numbers, verdicts, acceptance, others)
    with artifacts.atomic_path(job.output.summary) as path:
        path.write_text(text + "\n")
