"""Make the published tables from artifacts."""

import artifact_inputs
from stage import stage

from hessian_directions.reporting import tables
from hessian_directions.reproduction import artifacts

with stage(snakemake) as job:
    read = artifact_inputs.load(job.input) | {
        "labels": job.params.labels,
        "records": {path: artifacts.read_json(path) for path in job.input.records},
    }
    for table, path in job.output.items():
        made = tables.TABLES[table](*(read[name] for name in tables.READS[table]))
        artifacts.write_table(path, made)
