"""What the archive keeps of a replicate beside its tables: its settings, and what made its weights."""

from pathlib import Path

import yaml
from stage import stage

from hessian_directions.reproduction import artifacts

with stage(snakemake) as job:
    made = {}
    for path in job.input.checkpoints:
        provenance = artifacts.read_provenance(path)
        made[Path(path).parent.name] = {"sha256": artifacts.sha256(path)} | {
            key: provenance[key] for key in ("seed", "code_sha256", "libraries")
        }
    artifacts.write_json(job.output.checkpoints, made)
    with artifacts.atomic_path(job.output.configuration) as path:
        path.write_text(yaml.safe_dump(job.params.configuration, allow_unicode=True))
