"""Artifacts of very small networks, made by the analyses themselves, for tests of what reads them.

`made` runs an analysis once a session, with what it reads, on one of the networks of `KINDS`, and
hands out copies. Tests that need particular numbers edit them.
"""

import json
import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hessian_directions.analyses import registry
from hessian_directions.analyses.job import Job
from hessian_directions.reporting.report.results import Results

# Activation and, for regression, nothing to classify.
KINDS = {"relu": "relu", "smooth": "gelu", "regression": "relu"}

SETTINGS: dict[str, dict[str, Any]] = {
    "eigenpairs": {"tolerance": 1e-6},
    "trace": {"n_sketch": 4, "n_samples": 20},
    "visibility": {"n_planes": 50, "n_shards": 2, "n_spectrum_samples": 2000},
    "spectrum": {"n_probes": 3, "n_steps": 10},
    "slices": {"n_points": 11, "n_shards": 2},
    "turning": {"n_planes": 5, "n_points": 7},
    "lines": {"n_points": 21},
    "trace_estimators": {"n_samples": 40, "n_paired": 40},
    "step_sizes": {"n_directions": 6, "n_images": [20], "sharpness": [1.0, 10.0, 100.0, 1000.0]},
    "kinks": {"n_directions": 6},
    "lowest_losses": {"n_planes": 12, "n_radii": 4, "n_angles": 8},
    "apparent_curvature": {"n_planes": 8, "n_radii": 6, "n_angles": 6},
    "image_counts": {"n_images": [15, 30, 60], "n_samples": 8},
    "trajectory": {"n_samples": 8, "n_points": 11},
    "passes": {"n_images": [10, 20], "n_repeats": 1},
    "gauss_newton": {"n_samples": 20},
    "interpolation": {
        "others": ["network_1", "network_2"],
        "n_points": 5,
        "n_plane_points": 5,
    },
    "saddles": {
        "n": 60,
        "n_positive": [45, 55, 60, 65, 75],
        "n_samples": 300,
        "n_visibility_samples": 1000,
        "shown": [55, 60, 65],
        "n_points": 11,
        "dimension_saddles": [65, 75],
        "dimensions": [1, 2, 4, 8, 16, 32],
        "n_subspaces": 20,
    },
    "saddle_traces": {"n": 20, "n_positive": [15, 20, 25], "n_samples": 40},
    "population": {
        "data": "digits",
        "model": {"name": "mlp", "options": {"hidden_layers": 1}},
        "training": {"epochs": 15, "momentum": 0.9, "target_loss": 1.0, "history_every": 1},
        "factors": {
            "batch_size": [8, 32],
            "learning_rate": [0.05],
            "label_noise": [0.0, 0.1],
            "width": [3],
            "seed": [0, 1],
        },
        "n_shards": 2,
        "n_samples": 8,
        "m": 20,
        "rescaling": [0.5, 1.0, 2.0],
    },
    "critical_points": {
        "activations": ["tanh"],
        "widths": [1],
        "n_starts": 4,
        "n_embedded": 2,
        "wide": [8],
        "n_planes": 60,
        "n_spectrum_samples": 2000,
        "n_points": 11,
    },
}
DIGITS = {"kind": "digits", "n_test": 1717}  # leaves 80 training images


@cache
def trained(kind: str, seed: int) -> tuple[Any, Any]:
    """A problem whose network is trained a little, and the result of its training."""
    import torch

    from hessian_directions.analyses.problem import Problem, choose_loss
    from hessian_directions.data.dataset import Dataset, Split
    from hessian_directions.data.function import function
    from hessian_directions.learning.training import train
    from hessian_directions.models.registry import build

    if kind == "regression":
        data = function(cache=None, n_train=40, n_test=60, seed=seed)
    else:
        labels = torch.arange(90) % 3
        generator = torch.Generator().manual_seed(seed)
        inputs = 2.0 * torch.eye(3, 5)[labels] + torch.randn(90, 5, generator=generator)
        both = Split(inputs, labels, torch.arange(90))
        identity = {"kind": "clusters", "n_train": 60, "n_test": 30, "seed": seed}
        data = Dataset("clusters", both.take(range(60)), both.take(range(60, 90)), 3, identity)
    options = {"width": 8, "hidden_layers": 1, "activation": KINDS[kind]}
    shapes = {"input_shape": data.input_shape, "n_outputs": data.n_outputs}
    model, loss = build("mlp", options, **shapes, seed=seed), choose_loss(None, data)
    training = {"epochs": 30, "learning_rate": 0.05, "batch_size": 10, "snapshots": 5}
    result = train(model, loss, data.train, data.test, training, seed=seed)
    return Problem(model, loss, data, torch.device("cpu"), torch.float64, 20, None), result


def settings(name: str, **own: Any) -> Any:
    """The small settings of an analysis, with some of a test's own."""
    return registry.analysis(name).settings(**{**SETTINGS.get(name, {}), **own})


def run(name: str, kind: str = "relu", seed: int = 0, part: str = "", **own: Any) -> Any:
    """What an analysis makes of a network: dataset, large arrays, run record."""
    analysis, typed = registry.analysis(name), settings(name, **own)
    arrays: dict[str, np.ndarray] = {}
    record: dict[str, Any] = {}

    def job(reads: tuple[str, ...] = (), shard: int = 0) -> Job:
        read = {read: _read(read, kind, seed) for read in reads}
        others = {}
        if name == "interpolation":
            others = {other: _weights(kind, seed + int(other[-1])) for other in typed.others}
        return Job(
            seed,
            read,
            part,
            shard,
            lambda line: None,
            record=record,
            data=DIGITS,
            network="network_0",
            checkpoints=others,
        )

    def shard_of(number: int) -> Any:
        if name in registry.OF_NETWORKS:
            told = job(analysis.reads, number)
            return analysis.module.run(trained(kind, seed)[0], typed, told)
        return analysis.module.run(typed, job(shard=number))

    if analysis.is_sharded and typed.n_shards:
        shards = [shard_of(number) for number in range(typed.n_shards)]
        dataset = analysis.module.gather(shards, typed, job(analysis.gather_reads))
    elif analysis.tensors:
        dataset, arrays = shard_of(0)
    else:
        dataset = shard_of(0)
    if dataset is not None:
        data = trained(kind, seed)[0].identity() if name in registry.OF_NETWORKS else DIGITS
        made = {"configuration": {"settings": typed.model_dump()}, "data": data}
        dataset = dataset.assign_attrs(provenance=json.dumps(made))
    return dataset, arrays, record


_run = cache(run)


@cache
def _weights(kind: str, seed: int) -> str:
    """The file of a network's weights."""
    from hessian_directions.learning import checkpoints

    path = Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
    checkpoints.save(path, trained(kind, seed)[0].model, {})
    return str(path)


def _read(name: str, kind: str, seed: int) -> Any:
    if name == "snapshots":
        return trained(kind, seed)[1].snapshots
    if name == "eigenvectors":
        return _run("eigenpairs", kind, seed)[1]
    return _run(name, kind, seed)[0]


def made(name: str, kind: str = "relu", seed: int = 0, part: str = "", **own: Any) -> xr.Dataset:
    """An artifact that a test may change."""
    return _run(name, kind, seed, part, **own)[0].copy(deep=True)


def slices(kind: str = "relu", seed: int = 0) -> dict[str, xr.Dataset]:
    """The slices of one network, by "{plane}_{split}"."""
    found = {}
    for plane in ("random", "filter", "hessian"):
        dataset = made("slices", kind, seed, plane)
        for split in ("train", "test"):
            found[f"{plane}_{split}"] = dataset[split].rename("loss").to_dataset()
            if kind != "regression":
                found[f"{plane}_{split}"]["accuracy"] = dataset[f"{split}_accuracy"]
    return found


def image_counts(kind: str = "relu", seed: int = 0) -> xr.Dataset:
    """Those of all numbers of images, joined as drawings read them."""
    parts = [made("image_counts", kind, seed, part) for part in ("15", "30", "60")]
    return xr.concat(parts, "count", combine_attrs="drop")


def history(kind: str = "relu", seed: int = 0) -> xr.Dataset:
    """The history of training, as the workflow writes it."""
    result = trained(kind, seed)[1]
    columns = {name: ("epoch", values) for name, values in result.history.items()}
    return xr.Dataset(columns, attrs={"epochs": result.epochs})


def seconds(traces: xr.Dataset) -> dict[str, Any]:
    """A run record of trace estimators: two milliseconds a pass."""
    return {
        "seconds": dict(zip(traces["estimator"].values.tolist(), 2e-3 * traces["passes"].values))
    }


def passes(n_parameters: int, exponents: tuple[float, float] = (1.0, 1.0)) -> dict[str, Any]:
    """A run record of passes: power laws in the numbers of parameters and of images."""
    of_kind = {
        "value": 1,
        "gradient": 3,
        "hessian_vector_product": 9,
        "second_directional_derivative": 5,
    }
    scale = n_parameters ** exponents[0]
    return {
        "n_parameters": n_parameters,
        "seconds": {
            kind: {str(n): factor * scale * n ** exponents[1] for n in (10, 20, 50)}
            for kind, factor in of_kind.items()
        },
    }


def members(
    relation: float, n_seeds: int = 15, decades: float = 3.0, of_stratum: float = 0.0
) -> xr.Dataset:
    """Members whose gaps follow the mean curvature with a given strength; one never got there.

    λ_max and |λ_min| are `decades` above the mean curvature, give or take. The stratum moves
    curvature and gap alike, by `of_stratum`.
    """
    random = np.random.default_rng(0)
    seed, stratum = (
        grid.ravel() for grid in np.meshgrid(np.repeat(np.arange(n_seeds), 16), [0.0, 0.1, 0.2])
    )
    common, own = random.standard_normal((2, len(seed)))
    gap = relation * common + math.sqrt(1 - relation**2) * own + of_stratum * stratum
    curvature = np.exp(common + of_stratum * stratum)
    reached = np.ones(len(seed), dtype=bool)
    reached[0], curvature[0], gap[0] = False, 1e9, math.nan
    size = curvature * 10 ** (decades + 0.1 * random.standard_normal(len(seed)))
    columns = {
        "mean_curvature": curvature,
        "gap_loss": gap,
        "gap_accuracy": 0.1 * gap,
        "reached": reached,
        "seed": seed,
        "stratum": stratum,
        "largest": size,
        "smallest": -size,
    }
    return xr.Dataset({name: ("member", values) for name, values in columns.items()})


def results(seed: int = 0) -> Results:
    """All that the page of one network is made from."""
    return Results(
        label=f"Network {seed}",
        scores=made("scores", seed=seed),
        eigenpairs=made("eigenpairs", seed=seed),
        trace=made("trace", seed=seed),
        spectrum=made("spectrum", seed=seed),
        slices=slices(seed=seed),
        turning=made("turning", seed=seed),
        lines=made("lines", seed=seed),
        visibility=made("visibility", seed=seed),
        localisation=made("localisation", seed=seed),
        settings={"seed": seed, "precision": "float64"},
    )
