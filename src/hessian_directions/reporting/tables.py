"""The published tables: artifacts in, data frames out.

Every number in the paper is a cell of one of these.
"""

import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from hessian_directions.geometry.principal_curvatures import (
    expected_principal_curvatures,
    principal_curvatures,
)
from hessian_directions.statistics import power_law
from hessian_directions.statistics.rank_correlation import kendall_interval, kendall_tau

Datasets = Mapping[str, xr.Dataset]  # by network
Record = Mapping[str, Any]
Records = Mapping[str, Record]


def networks(
    labels: Mapping[str, str],
    scores: Datasets,
    eigenpairs: Datasets,
    visibility: Datasets,
    history: Datasets,
) -> pd.DataFrame:
    """One row per network: what it was trained on, what it scores, how its loss curves.

    Cells of analyses that were not done for a network stay empty, and so do those of training for networks that
    were trained elsewhere.
    """
    rows = []
    for network, own in scores.items():
        row: dict[str, Any] = {"network": network, "label": labels[network]}
        row |= {str(name): float(value) for name, value in own.items() if value.ndim == 0}
        row |= _training(own, history.get(network))
        row |= _ends(eigenpairs.get(network)) | _scale(visibility.get(network))
        row["mean_curvature"] = row["trace"] / row["n_parameters"]
        rows.append(row)
    counts = ["n_parameters", "n_images", "n_products", "n_check_products"]
    counts += ["training_images", "training_epochs"]
    return pd.DataFrame(rows).astype(dict.fromkeys(counts, "Int64"))


def _training(scores: xr.Dataset, history: xr.Dataset | None) -> dict[str, Any]:
    """Columns of the training that was done here."""
    if history is None:
        return {"training_images": None, "training_epochs": None}
    data = json.loads(scores.attrs["provenance"])["data"]
    return {"training_images": data["n_train"], "training_epochs": int(history.attrs["epochs"])}


def _ends(pairs: xr.Dataset | None) -> dict[str, Any]:
    """Columns of the extreme eigenpairs."""
    row: dict[str, Any] = {}
    for end, index in (("smallest", 0), ("largest", -1)):
        for name, column in (
            ("value", end),
            ("residual", f"{end}_residual"),
            ("exact_curvature", f"{end}_exact_curvature"),
        ):
            row[column] = math.nan if pairs is None else float(pairs[name][index])
    for name in ("n_products", "n_check_products"):
        row[name] = None if pairs is None else int(pairs.attrs[name])
    return row


def _scale(sampled: xr.Dataset | None) -> dict[str, float]:
    """Columns of the trace and the Frobenius norm."""
    names = ("trace", "trace_standard_error", "frobenius_norm", "frobenius_standard_error", "r")
    return {name: math.nan if sampled is None else float(sampled[name]) for name in names}


def visibility(visibility: Datasets) -> pd.DataFrame:
    """How visible each network's saddle is in one random slice: sampled, by spectrum, by formula."""
    columns = [
        *(
            f"visibility_{kind}{end}"
            for kind in ("direct", "spectrum")
            for end in ("", "_low", "_high")
        ),
        "visibility_formula",
        "third_moment",
        "tail",
        "lowest_twentieth",
        "lowest_twentieth_low",
        "lowest_twentieth_high",
    ]
    return _table(
        [
            {"network": network, "n_planes": dataset.sizes["sample"]}
            | {column: float(dataset[column]) for column in columns}
            for network, dataset in visibility.items()
        ]
    )


def saddles(saddles: xr.Dataset) -> pd.DataFrame:
    """Synthetic saddles: mean principal curvatures of random slices beside theory, visibility."""
    rows = []
    for index, n_positive in enumerate(saddles["saddle"].values):
        saddle = saddles.isel(saddle=index)
        trace, frobenius = float(saddle["trace"]), float(saddle["frobenius_norm"])
        smallest, largest = principal_curvatures(saddle["projected_hessian"].values)
        theory = expected_principal_curvatures(trace, frobenius)
        root = np.sqrt(len(smallest))
        rows.append(
            {
                "n_positive": int(n_positive),
                "trace": trace,
                "r": trace / frobenius,
                "smallest": smallest.mean(),
                "smallest_standard_error": smallest.std(ddof=1) / root,
                "smallest_theory": theory[0],
                "largest": largest.mean(),
                "largest_standard_error": largest.std(ddof=1) / root,
                "largest_theory": theory[1],
                "visibility": float(saddle["visibility_sampled"]),
                "visibility_low": float(saddle["visibility_low"]),
                "visibility_high": float(saddle["visibility_high"]),
                "visibility_formula": float(saddle["visibility_formula"]),
            }
        )
    return pd.DataFrame(rows)


def dimensions(saddles: xr.Dataset) -> pd.DataFrame:
    """Synthetic saddles: the dimension at which half of the random subspaces see a negative one."""
    rows = []
    for index, n_positive in enumerate(saddles["dimension_saddle"].values):
        saddle = saddles.isel(dimension_saddle=index)
        seen, grid = saddle["negative_seen"].values, saddles["dimension"].values
        half = float(np.interp(0.5, seen, grid)) if seen[0] < 0.5 <= seen[-1] else float("nan")
        rows.append(
            {
                "n_positive": int(n_positive),
                "half_dimension": half,
                "critical_dimension": float(saddle["critical_dimension"]),
                "quarter_r_squared": float(saddle["quarter_r_squared"]),
            }
        )
    return pd.DataFrame(rows)


def traces(
    trace_estimators: Datasets,
    saddle_traces: xr.Dataset,
    trace_estimators_record: Records,
    saddle_traces_record: Record,
) -> pd.DataFrame:
    """Every estimator on every subject: mean, standard error, reference, cost.

    The records hold what each estimator took; it varies from run to run.
    """
    subjects = dict(trace_estimators)
    seconds = {network: record["seconds"] for network, record in trace_estimators_record.items()}
    seconds |= {f"saddle {n}": spent for n, spent in saddle_traces_record["seconds"].items()}
    for index, n_positive in enumerate(saddle_traces["saddle"].values):
        subjects[f"saddle {n_positive}"] = saddle_traces.isel(saddle=index)
    rows = []
    for subject, dataset in subjects.items():
        for estimator in dataset["estimator"].values:
            one = dataset.sel(estimator=estimator)
            reference = float(one["reference"])
            rows.append(
                {
                    "subject": subject,
                    "estimator": str(estimator),
                    "activation": dataset.attrs.get("activation", "smooth"),
                    "n_samples": int(one["n_samples"]),
                    "mean": float(one["mean"]),
                    "standard_error": float(one["standard_error"]),
                    "reference": reference,
                    "reference_standard_error": float(one["reference_standard_error"]),
                    "ratio": float(one["mean"]) / reference if reference else float("nan"),
                    "passes": float(one["passes"]),
                    "step": float(one["step"]),
                    "seconds": seconds.get(subject, {}).get(str(estimator), float("nan")),
                }
            )
    return pd.DataFrame(rows)


def step_sizes(step_sizes: Datasets) -> pd.DataFrame:
    """Second differences over the exact curvature, for each network, number of images and step."""
    rows = []
    for network, dataset in step_sizes.items():
        for n_images in dataset["n_images"].values:
            exact = dataset["exact"].sel(n_images=n_images)
            for step in dataset["step"].values:
                difference = dataset["difference"].sel(n_images=n_images, step=step)
                gap = (difference - exact).values
                rows.append(
                    {
                        "network": network,
                        "activation": dataset.attrs["activation"],
                        "n_images": int(n_images),
                        "step": float(step),
                        "difference": float(difference.mean()),
                        "exact": float(exact.mean()),
                        "gap": float(gap.mean()),
                        "gap_standard_error": float(gap.std(ddof=1) / np.sqrt(len(gap))),
                    }
                )
    return _table(rows)


def softplus(step_sizes: Datasets) -> pd.DataFrame:
    """Exact curvature with Softplus of growing sharpness in place of ReLU, along the same directions."""
    rows = []
    for network, dataset in step_sizes.items():
        if "softplus" not in dataset:
            continue
        relu = dataset["exact"].isel(n_images=-1).values
        for sharpness in dataset["sharpness"].values:
            values = dataset["softplus"].sel(sharpness=sharpness).values
            rows.append(
                {
                    "network": network,
                    "sharpness": float(sharpness),
                    "curvature": float(values.mean()),
                    "relu": float(relu.mean()),
                    "gap_standard_error": float((values - relu).std(ddof=1) / np.sqrt(len(relu))),
                }
            )
    return _table(rows)


def surface_checks(eigenpairs: Datasets) -> pd.DataFrame:
    """Sanity: exact curvature along each eigenvector beside the eigenvalue, and the surface's."""
    rows = []
    for network, dataset in eigenpairs.items():
        for pair in range(dataset.sizes["pair"]):
            one = dataset.isel(pair=pair)
            row: dict[str, Any] = {
                "network": network,
                "pair": pair,
                "value": float(one["value"]),
                "residual": float(one["residual"]),
                "converged": bool(one["converged"]),
                "below_noise": bool(one["below_noise"]),
                "exact_curvature": float(one["exact_curvature"]),
            }
            for step in dataset["step"].values:
                row[f"surface_{step:g}"] = float(one["surface_curvature"].sel(step=step))
            rows.append(row)
    return _table(rows)


def shallow_sides(lines: Datasets) -> pd.DataFrame:
    """How far the loss itself follows a negative curvature along the direction of λ_min.

    `bends_down_to` is the largest distance up to which all second differences along it are negative, 0 where the
    nearest is not; `edge_difference` is the one at the profile's end; the lowest loss is that of the profile.
    """
    rows = []
    for network, dataset in lines.items():
        loss = dataset["loss"].sel(direction="smallest")
        distances, values = loss["distance"].values, loss.values
        middle = len(distances) // 2
        distance = distances[middle + 1 :]
        both_sides = values[middle + 1 :] + values[middle - 1 :: -1]
        differences = (both_sides - 2 * values[middle]) / distance**2
        n_negative = int(np.logical_and.accumulate(differences < 0).sum())
        lowest = int(values.argmin())
        rows.append(
            {
                "network": network,
                "curvature": float(dataset["curvature"].sel(direction="smallest")),
                "nearest": distance[0],
                "nearest_difference": differences[0],
                "bends_down_to": distance[n_negative - 1] if n_negative else 0.0,
                "edge": distance[-1],
                "edge_difference": differences[-1],
                "loss_at_origin": values[middle],
                "lowest_loss": values[lowest],
                "lowest_distance": abs(distances[lowest]),
            }
        )
    return _table(rows)


def image_counts(image_counts: Datasets) -> pd.DataFrame:
    """One row per network and number of images: both ends of the spectrum and the trace."""
    columns = [
        "n_images",
        "loss",
        "gradient_norm",
        "smallest",
        "smallest_residual",
        "largest",
        "largest_residual",
        "trace",
        "trace_standard_error",
        "n_products",
    ]
    rows = [
        {"network": network} | {name: measured[name].values[k] for name in columns}
        for network, measured in image_counts.items()
        for k in range(measured.sizes["count"])
    ]
    return _table(rows)


def lowest_points(lowest_points: Datasets) -> pd.DataFrame:
    """The lowest loss over the Hessian plane and over random planes, equal grids and half-widths.

    `planes_far` counts the random planes whose lowest point lies at the grid's half-width or beyond it.
    """
    return _table(
        [
            {
                "network": network,
                "n_planes": dataset.sizes["plane"],
                "radius": float(dataset["radius"]),
                "n_points": int(dataset["n_points"]),
                "loss_at_origin": float(dataset["loss_at_origin"]),
                "hessian_lowest_loss": float(dataset["hessian_lowest_loss"]),
                "random_lowest_loss": float(dataset["lowest_loss"].min()),
                "random_median_loss": float(dataset["lowest_loss"].median()),
                "planes_as_low": int(
                    (dataset["lowest_loss"] <= dataset["hessian_lowest_loss"]).sum()
                ),
                "planes_far": int(
                    (dataset["lowest_distance"] >= (1 - 1e-6) * dataset["radius"]).sum()
                ),
            }
            for network, dataset in lowest_points.items()
        ]
    )


def correlations(population: xr.Dataset) -> pd.DataFrame:
    """Kendall's τ and granulated τ of each measure with each generalization gap, with intervals."""
    rows = []
    for measure in population["measure"].values:
        for gap in population["generalization"].values:
            one = population.sel(measure=measure, generalization=gap)
            row: dict[str, Any] = {"measure": str(measure), "generalization": str(gap)}
            for kind in ("kendall", "granulated"):
                for end in ("", "_low", "_high"):
                    row[kind + end] = float(one[kind + end])
            rows.append(row)
    return pd.DataFrame(rows)


def levels(population: xr.Dataset) -> pd.DataFrame:
    """Members of each level of each factor that was varied, and Kendall's τ of t/N with both gaps within it.

    A correlation over all members that vanishes within the levels of a factor is due to that factor.
    """
    configuration = json.loads(population.attrs["provenance"])["configuration"]
    factors = configuration["settings"]["factors"]
    reached = population["reached"].values.astype(bool)
    rows = []
    for factor in (name for name, values in factors.items() if len(values) > 1):
        for level in np.unique(population[factor].values):
            of_level = population[factor].values == level
            members = population.isel(member=of_level & reached)
            row: dict[str, Any] = {
                "factor": factor,
                "level": level,
                "n_members": int(of_level.sum()),
                "n_reached": members.sizes["member"],
            }
            for gap in population["generalization"].values:
                x, y = members["mean_curvature"].values, members[gap].values
                row[gap] = kendall_tau(x, y)
                row[f"{gap}_low"], row[f"{gap}_high"] = kendall_interval(x, y)
            rows.append(row)
    return pd.DataFrame(rows)


def population(population: xr.Dataset) -> pd.DataFrame:
    """How many members were trained, how many reached the target, and their ranges.

    The ranges are empty where no member reached it; those of the rescaled network always exist.
    """
    reached = population["reached"].values.astype(bool)
    row: dict[str, float] = {"n_members": reached.size, "n_reached": int(reached.sum())}
    of_members = "train_loss gap_loss gap_accuracy test_accuracy trace largest smallest"
    of_rescaling = "rescaled_trace rescaled_largest rescaled_loss"
    for name in f"{of_members} {of_rescaling}".split():
        variable = population[name]
        values = variable.values[reached] if "member" in variable.dims else variable.values
        row[f"{name}_lowest"] = values.min() if values.size else math.nan
        row[f"{name}_highest"] = values.max() if values.size else math.nan
    return pd.DataFrame([row])


def cost(records: Records) -> pd.DataFrame:
    """What each kind of job took: wall time, processor time and memory, from the run records."""
    rows = [
        {
            "rule": record["rule"],
            "wall_seconds": record["wall_seconds"],
            "cpu_seconds": record["cpu_seconds"],
            "peak_memory_mb": record["peak_memory_bytes"] / 1e6,
        }
        for record in records.values()
    ]
    table = pd.DataFrame(rows).groupby("rule", sort=True)
    return table.agg(
        jobs=("wall_seconds", "size"),
        wall_seconds=("wall_seconds", "sum"),
        cpu_seconds=("cpu_seconds", "sum"),
        peak_memory_mb=("peak_memory_mb", "max"),
    ).reset_index()


def cost_scaling(passes_record: Records) -> pd.DataFrame:
    """Fitted exponents of the seconds of one pass, by kind.

    Along `n_images` for each network; along `n_parameters` seconds per image, over all networks at their largest
    number of images.
    """
    rows = []
    for kind in sorted({kind for record in passes_record.values() for kind in record["seconds"]}):
        sizes, per_image = [], []
        for network, record in passes_record.items():
            counts = [int(n) for n in record["seconds"][kind]]
            seconds = list(record["seconds"][kind].values())
            sizes.append(record["n_parameters"])
            per_image.append(seconds[-1] / counts[-1])
            rows.append({"network": network, "kind": kind} | _exponent("n_images", counts, seconds))
        rows.append({"network": "all", "kind": kind} | _exponent("n_parameters", sizes, per_image))
    return _table(rows)


def _exponent(along: str, sizes: list[int], seconds: list[float]) -> dict[str, Any]:
    law = power_law.fit(sizes, seconds)
    return {
        "along": along,
        "points": len(sizes),
        "smallest": min(sizes),
        "largest": max(sizes),
        "exponent": law.exponent if law else math.nan,
        "standard_error": law.standard_error if law else math.nan,
    }


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per dictionary; without any still a table, as a CSV file has to have a column."""
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["network"])


# By the name of their files; the arguments name the artifacts that they are made from.
TABLES: dict[str, Callable[..., pd.DataFrame]] = {
    table.__name__: table
    for table in (
        networks,
        visibility,
        saddles,
        dimensions,
        traces,
        step_sizes,
        softplus,
        surface_checks,
        shallow_sides,
        image_counts,
        lowest_points,
        correlations,
        levels,
        population,
        cost,
        cost_scaling,
    )
}


def reads(table: str) -> tuple[str, ...]:
    """The artifacts that a table is made from."""
    return tuple(inspect.signature(TABLES[table]).parameters)
