"""Say what a run will compute, how long it may take, and how much memory.

`python -m hessian_directions.reproduction.announcement <config>`. Where the profile's archive holds
this configuration, the run records of its jobs tell; else the cost model, from passes over a few
images.
"""

import os
from pathlib import Path

from hessian_directions.analyses import registry
from hessian_directions.data import cache
from hessian_directions.errors import CheckpointError, about
from hessian_directions.progress import duration
from hessian_directions.reproduction import configuration, cost_model
from hessian_directions.reproduction.cost_model import Estimate


def announce(settings: configuration.Configuration, archive: Path, cores: int, folder: Path) -> str:
    """Networks, analyses, the time and memory that it all takes, and a line for every network.

    Where it is not in the archive, each data set has a line, too: how it was understood. `archive` is
    the profile's, which may be missing, `folder` that of the configuration.
    """
    networks = settings["networks"]
    trained = sum(network["training"] is not None for network in networks.values())
    shown = [name for name in registry.OF_PROFILES if name in settings["analyses"]]
    lines = [
        f"Profile {settings['profile']}: {len(networks)} network{'s' * (len(networks) > 1)} "
        f"({trained} trained here), {len(settings['analyses'])} analyses"
        + (f" ({', '.join(shown)} among them)" if shown else "")
        + (f", beside the archive of {settings['companion']}" if settings["companion"] else "")
        + "."
    ]
    notes: list[str] = []
    archived = configuration.is_archived(settings, archive)
    if archived and (records := cost_model.recorded(archive, settings["device"])):
        stages = cost_model.by_stage(records)
        told = "Where the archive was made this took"
    else:
        _require_files(settings, folder)
        lines += _data(settings, folder)
        notes = _import_checkpoints(settings, folder)
        stages = cost_model.stages(settings, cost_model.measure(settings, folder))
        told = "Predicted from a few passes:"
    whole = sum(stages.values(), Estimate())
    lines.append(
        f"{told} {duration(whole.seconds)} of one core, about {duration(whole.seconds / cores)} on "
        f"{cores} like it; the largest job {whole.bytes / 1e9:.1f} GB. A smaller 'n_images' makes it "
        "shorter in proportion."
    )
    return "\n".join(lines + cost_model.describe(stages) + notes)


def _data(settings: configuration.Configuration, folder: Path) -> list[str]:
    """How each data set is understood: read anew, since files may be others than at the last time."""
    from hessian_directions.analyses import problem  # imports torch, which an archive does without

    lines = {}
    for name, subject in cost_model.subjects(settings):
        key = subject["data"]
        own = settings["data"][key]
        # These transforms alone depend on the network.
        shared = own.get("transform") not in ("timm", "torchvision")
        if (place := key if shared else name) in lines:
            continue
        with about(f"{name} (data {key})"):
            described = {**subject, "data_settings": own}
            data = problem.load_data(described, cache=settings["cache"], folder=folder)
        lines[place] = f"  {key if shared else f'{key} for {name}'}: {data.describe()}."
    return list(lines.values())


def _require_files(settings: configuration.Configuration, folder: Path) -> None:
    """Before anything is read: files that no job could read."""
    for name, network in settings["networks"].items():
        wanted = network["checkpoint"] or {}
        if not wanted.get("file") or wanted.get("url"):
            continue
        path = cache.find(wanted["file"], folder, cache.folder(settings["cache"]))
        if not path.exists():
            raise CheckpointError(f"{name}: the checkpoint {path} is missing")


def _import_checkpoints(settings: configuration.Configuration, folder: Path) -> list[str]:
    """Before anything is timed: weights that do not fit are refused; and notes on those that do.

    What an earlier run has imported did fit; the workflow sees whether it changed.
    """
    notes = []
    common = {key: settings[key] for key in ("seed", "device", "precision", "cache")}
    imported = Path("results/computed") / settings["profile"] / "networks"
    for name, network in settings["networks"].items():
        if network["checkpoint"] is None or (imported / name / "checkpoint.safetensors").exists():
            continue
        from hessian_directions.analyses import problem
        from hessian_directions.learning import checkpoints

        with about(f"{name} (data {network['data']})"):
            described = {**network, "data_settings": settings["data"][network["data"]]}
            model = problem.load(described, **common, folder=folder).model
        with about(name):
            wanted = network["checkpoint"]
            beside = checkpoints.import_into(model, wanted, settings["cache"], folder)
        notes += [f"{name}: {note}" for note in beside.get("notes", [])]
    return notes


def main() -> int:
    def work(settings: configuration.Configuration, path: Path) -> str:
        archive = Path("results/archive") / settings["profile"]
        # Snakemake has no last word where nothing is to be done.
        report = f"The report: results/computed/{settings['profile']}/report.html"
        with about(str(path)):
            return announce(settings, archive, os.cpu_count() or 1, path.parent) + f"\n{report}"

    return configuration.program("announce", "Say what a run will compute.", work)


if __name__ == "__main__":
    raise SystemExit(main())
