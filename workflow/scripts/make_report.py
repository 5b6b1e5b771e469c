"""The report: one self-contained page of all that a profile has, to be explored."""

import os
from pathlib import Path

import artifact_inputs
import pandas as pd
import yaml
from stage import stage

from hessian_directions.analyses import registry
from hessian_directions.reporting.report import beyond, comparison, cost, document
from hessian_directions.reporting.report.results import Results
from hessian_directions.reproduction import artifacts, cost_model


def rows(path: str) -> list[dict]:
    return pd.read_csv(path).to_dict("records")


with stage(snakemake) as job:
    configuration = yaml.safe_load(Path(job.input.configuration).read_text())
    common = {key: configuration[key] for key in ("seed", "device", "precision", "threads")}
    folder = Path(job.output.report).parent

    def link(path: str) -> tuple[str, str]:
        return Path(path).name, os.path.relpath(path, folder)

    def link_of_network(path: str) -> tuple[str, str]:
        """Among those of others: under the network's name."""
        name, place = link(path)
        is_of_network = "networks" in Path(path).parts
        return (f"{artifact_inputs.network_of(path)}/{name}" if is_of_network else name), place

    def files(paths: list[str], link=link) -> list[tuple[str, str]]:
        """Artifacts, and the figures that are drawn from them."""
        figures = [
            f"{folder}/figures/{figure}.pdf"
            for figure, read in job.params.figures.items()
            if set(read) & set(paths)
        ]
        return [*map(link, paths), *map(link, figures)]

    def paths_of(name: str, network: str | None = None) -> list[str]:
        given = job.input.get(name, [])
        paths = [given] if isinstance(given, str) else list(given)
        if network is not None:
            paths = [path for path in paths if artifact_inputs.network_of(path) == network]
        return paths

    analyses = (*registry.OF_NETWORKS, *registry.OF_PROFILES)
    given = {name: job.input[name] for name in analyses if job.input.get(name)}
    read, failed = artifact_inputs.load(given), artifact_inputs.failures(given)
    networks, labels = {}, {}
    for name, settings in configuration["networks"].items():
        own = {part: read[part][name] for part in registry.STANDARD if name in read.get(part, {})}
        labels[name] = settings["label"]
        networks[name] = Results(
            label=settings["label"],
            settings=common
            | {key: value for key, value in settings.items() if value is not None}
            | {"data": configuration["data"][settings["data"]]},
            failed=failed.get(name, ""),
            files={part: files(paths_of(part, name)) for part in own},
            **own,
        )
    evidence = beyond.Evidence(
        {name: read[name] for name in beyond.OF_NETWORKS if read.get(name)},
        {name: read[name] for name in registry.OF_PROFILES if name in read},
        labels,
        {
            name: files(paths_of(name), link_of_network)
            for name in (*beyond.OF_NETWORKS, *registry.OF_PROFILES)
            if name in read
        },
    )
    compared = None
    if job.input.comparison:
        names = ("comparison", "comparison_verdicts", "comparison_summary")
        numbers, verdicts, summary = paths = [job.input[name] for name in names]
        compared = comparison.page(
            rows(numbers), rows(verdicts), Path(summary).read_text(), list(map(link, paths))
        )
    spent = None
    if job.input.records:
        passes = cost_model.read(configuration) if job.input.measured else {}
        stages = cost_model.stages(configuration, passes)
        spent = cost.page(
            [artifacts.read_json(path) for path in job.input.records],
            {stage: (of.seconds, of.bytes) for stage, of in stages.items()},
            labels,
        )
    claims = rows(job.input.claims) if job.input.claims else []
    everything = [path for name in analyses for path in paths_of(name)]
    html = document.render(
        networks,
        f"Profile {configuration['profile']}",
        claims=claims,
        claim_rows=rows(job.input.claim_rows) if claims else (),
        artifacts={
            artifact: link(path)[1]
            for artifact in {str(row["artifact"]) for row in claims}
            for path in everything
            if path.endswith(f"/{artifact}")
        },
        after=[page for page in (compared, beyond.page(evidence), spent) if page is not None],
    )
    with artifacts.atomic_path(job.output.report) as path:
        path.write_text(html, encoding="utf-8")
