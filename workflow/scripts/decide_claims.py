"""Decide every claim by the rules of the configuration."""

import artifact_inputs
from stage import stage

from hessian_directions.reporting import claims, verdicts
from hessian_directions.reproduction import artifacts

with stage(snakemake) as job:
    evidence = claims.Evidence(**artifact_inputs.load(job.input))
    rows = verdicts.decide_rows(evidence, job.params.rules, claims.RULES)
    artifacts.write_table(job.output.rows, rows)
    artifacts.write_table(job.output.claims, verdicts.decide_claims(rows, claims.CLAIMS))
