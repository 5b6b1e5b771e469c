"""Write the configuration, with all its defaults, that a run was made with."""

import yaml
from stage import stage

from hessian_directions.reproduction import artifacts

with stage(snakemake) as job, artifacts.atomic_path(job.output.configuration) as path:
    path.write_text(yaml.safe_dump(job.params.configuration, allow_unicode=True, sort_keys=False))
