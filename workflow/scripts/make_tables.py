"""Make the published tables from artifacts."""

from typing import TYPE_CHECKING

import artifact_inputs
from stage import stage

from hessian_directions.reporting import tables
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    read = artifact_inputs.load(job.input)
    records = {path: artifacts.read_json(path) for path in job.input.records}
    seconds = {
        artifact_inputs.network_of(path): record["seconds"]
        for path, record in records.items()
        if "/networks/" in path and record["rule"] == "compare_traces"
    }
    for record in records.values():
        if record["rule"] == "compare_saddle_traces":
            seconds |= {f"saddle {n}": spent for n, spent in record["seconds"].items()}
    made = {
        "networks": tables.networks(
            job.params.labels,
            read["measurements"],
            read["eigenpairs"],
            read["projections"],
            read["histories"],
        ),
        "visibility": tables.visibility(read["projections"]),
        "saddles": tables.saddles(read["saddles"]),
        "dimensions": tables.dimensions(read["saddles"]),
        "traces": tables.traces(read["traces"], read["saddle_traces"], seconds),
        "step_sizes": tables.step_sizes(read["step_sizes"]),
        "softplus": tables.softplus(read["step_sizes"]),
        "surface_checks": tables.surface_checks(read["eigenpairs"]),
        "shallow_sides": tables.shallow_sides(read["profiles"]),
        "image_counts": tables.image_counts(read["image_counts"]),
        "lowest_points": tables.lowest_points(read["planes"]),
        "correlations": tables.correlations(read["population"]),
        "levels": tables.levels(read["population"]),
        "population": tables.population_summary(read["population"]),
        "cost": tables.cost(records),
        "cost_scaling": tables.cost_scaling(read["passes"]),
    }
    for name, table in made.items():
        artifacts.write_table(job.output[name], table)
