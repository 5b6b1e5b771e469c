"""Decide every claim by the rules of the configuration."""

from typing import TYPE_CHECKING

import artifact_inputs
from stage import stage

from hessian_directions.reporting import claims
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    evidence = claims.Evidence(**artifact_inputs.load(job.input))
    rows = claims.decide_rows(evidence, job.params.rules)
    artifacts.write_table(job.output.rows, rows)
    artifacts.write_table(job.output.claims, claims.decide_claims(rows))
