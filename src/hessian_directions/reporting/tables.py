"""The published tables: artifacts in, data frames out.

Every number in the paper is a cell of one of these.
"""

import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from hessian_directions.geometry.principal_curvatures import (
    expected_principal_curvatures,
    principal_curvatures,
)
from hessian_directions.geometry.quadratic_fit import fit_surface, surface_axes
from hessian_directions.statistics import power_law
from hessian_directions.statistics.departure import departure, median_interval
from hessian_directions.statistics.proportions import TIE, as_low, clopper_pearson
from hessian_directions.statistics.rank_correlation import jackknife, kendall

Datasets = Mapping[str, xr.Dataset]  # by network
Record = Mapping[str, Any]
Records = Mapping[str, Record]
Row = dict[str, Any]
Made = Callable[..., Iterable[Row] | pd.DataFrame]
Table = Callable[..., pd.DataFrame]

# What is added to a column's name for its value and both ends of its interval.
ENDS = ("", "_low", "_high")
# Columns of the trace and the Frobenius norm.
SCALE = ("trace", "trace_standard_error", "frobenius_norm", "frobenius_standard_error", "r")

# By the name of their files, and what they are made from, in the order of their arguments.
TABLES: dict[str, Table] = {}
READS: dict[str, tuple[str, ...]] = {}


def published(function: Made) -> Table:
    """List a function as a table: of what it returns, or of the rows that it yields. Its arguments name artifacts."""
    return _listed(function, *inspect.signature(function).parameters)


def of_networks(artifact: str) -> Callable[[Callable[[Any], Iterator[Row]]], Table]:
    """List a function as a table of the rows that it yields for each network's artifact, the network in front."""

    def listed(function: Callable[[Any], Iterator[Row]]) -> Table:
        @wraps(function)
        def rows(given: Mapping[str, Any]) -> Iterator[Row]:
            for network, one in given.items():
                for row in function(one):
                    yield {"network": network} | row

        return _listed(rows, artifact)

    return listed


def _listed(function: Made, *reads: str) -> Table:
    @wraps(function)
    def table(*read: Any) -> pd.DataFrame:
        made = pd.DataFrame(function(*read))
        # Without rows it is still a table, as a CSV file has to have a column.
        return made if len(made.columns) else pd.DataFrame(columns=["network"])

    TABLES[function.__name__], READS[function.__name__] = table, reads
    return table


@published
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
        row: Row = {"network": network, "label": labels[network]} | _scalars(own)
        row |= {"training_images": None, "training_epochs": None}
        if network in history:  # trained here
            provenance = json.loads(own.attrs["provenance"])
            row["training_images"] = provenance["data"]["n_train"]
            row["training_epochs"] = int(history[network].attrs["epochs"])
        row |= _ends(eigenpairs.get(network)) | _numbers(visibility.get(network), SCALE)
        row["mean_curvature"] = row["trace"] / row["n_parameters"]
        rows.append(row)
    if not rows:  # of no network there are numbers
        return pd.DataFrame()
    counts = ["n_parameters", "n_images", "n_products", "n_check_products"]
    counts += ["training_images", "training_epochs"]
    return pd.DataFrame(rows).astype(dict.fromkeys(counts, "Int64"))


def _ends(pairs: xr.Dataset | None) -> Row:
    """Columns of the extreme eigenpairs."""
    row: Row = {}
    for end, index in (("smallest", 0), ("largest", -1)):
        for name in ("value", "residual", "exact_curvature"):
            column = end if name == "value" else f"{end}_{name}"
            row[column] = math.nan if pairs is None else float(pairs[name][index])
    for name in ("n_products", "n_check_products"):
        row[name] = None if pairs is None else int(pairs.attrs[name])
    return row


def _numbers(dataset: xr.Dataset | None, names: Iterable[str]) -> dict[str, float]:
    """Scalars of a dataset by name; NaN for those that it was made without, and without a dataset."""
    known = {} if dataset is None else dataset
    return {name: float(known.get(name, math.nan)) for name in names}


def _along(dataset: xr.Dataset, dimension: str) -> Iterator[xr.Dataset]:
    """What a dataset has at each place of a dimension."""
    for index in range(dataset.sizes[dimension]):
        yield dataset.isel({dimension: index})


def _scalars(dataset: xr.Dataset) -> dict[str, float]:
    """All scalars of a dataset by name."""
    return _numbers(dataset, (str(name) for name, value in dataset.items() if value.ndim == 0))


@published
def visibility(visibility: Datasets, spectrum: Datasets) -> Iterator[Row]:
    """How visible each network's saddle is in one random slice: sampled, by spectrum, by formula.

    And how many dimensions a random subspace needs to see it, where there is a spectrum; cells of
    quantities that an archive was made without are empty.
    """
    columns = [
        *(f"visibility_{kind}{end}" for kind in ("direct", "spectrum") for end in ENDS),
        *("visibility_formula", "third_moment", "tail"),
        *(f"lowest_twentieth{end}" for end in ENDS),
        *("visibility_corrected", "condition"),
    ]
    needed = ["dimensions_needed", "dimensions_needed_standard_error"]
    for network, dataset in visibility.items():
        row: Row = {"network": network, "n_planes": dataset.sizes["sample"]}
        yield row | _numbers(dataset, columns) | _numbers(spectrum.get(network), needed)


@published
def saddles(saddles: xr.Dataset) -> Iterator[Row]:
    """Synthetic saddles: mean principal curvatures of random slices beside theory, visibility."""
    for saddle in _along(saddles, "saddle"):
        trace, frobenius = float(saddle["trace"]), float(saddle["frobenius_norm"])
        sampled = principal_curvatures(saddle["projected_hessian"].values)
        theory = expected_principal_curvatures(trace, frobenius)
        row = {"n_positive": int(saddle["saddle"]), "trace": trace, "r": trace / frobenius}
        for end, values, expected in zip(("smallest", "largest"), sampled, theory):
            row |= {
                end: values.mean(),
                f"{end}_standard_error": scipy.stats.sem(values),
                f"{end}_theory": expected,
            }
        row["visibility"] = float(saddle["visibility_sampled"])
        kinds = ("low", "high", "formula", "corrected")
        yield row | _numbers(saddle, (f"visibility_{kind}" for kind in kinds))


@published
def dimensions(saddles: xr.Dataset) -> Iterator[Row]:
    """Synthetic saddles: the dimension at which half of the random subspaces see a negative one."""
    for saddle in _along(saddles, "dimension_saddle"):
        seen, grid = saddle["negative_seen"].values, saddles["dimension"].values
        half = float(np.interp(0.5, seen, grid)) if seen[0] < 0.5 <= seen[-1] else float("nan")
        row = {"n_positive": int(saddle["dimension_saddle"]), "half_dimension": half}
        yield row | _numbers(saddle, ("critical_dimension", "quarter_r_squared"))


@published
def critical_points(critical_points: xr.Dataset) -> pd.DataFrame:
    """Critical points of small networks: what they are, their spectra, and their visibility."""
    shares = ("sampled", "low", "high", "direct", "formula", "corrected")
    columns = [
        *("hidden_activation", "hidden_units", "layers", "origin", "scatter", "n_parameters"),
        *("loss", "gradient_norm", "index", "n_zero", "smallest", "largest"),
        *("trace", "frobenius_norm", "r", "curvature_mean", "curvature_standard_error"),
        *(f"visibility_{share}" for share in shares),
        "condition",
    ]
    return critical_points[columns].to_dataframe()[columns].reset_index()


@published
def traces(
    trace_estimators: Datasets,
    saddle_traces: xr.Dataset,
    trace_estimators_record: Records,
    saddle_traces_record: Record,
) -> Iterator[Row]:
    """Every estimator on every subject: mean, standard error, reference, cost.

    The records hold what each estimator took; it varies from run to run.
    """
    subjects = dict(trace_estimators)
    seconds = {network: record["seconds"] for network, record in trace_estimators_record.items()}
    seconds |= {f"saddle {n}": spent for n, spent in saddle_traces_record["seconds"].items()}
    for saddle in _along(saddle_traces, "saddle"):
        subjects[f"saddle {saddle['saddle'].item()}"] = saddle
    for subject, dataset in subjects.items():
        for one in _along(dataset, "estimator"):
            estimator = str(one["estimator"].values)
            row: Row = {
                "subject": subject,
                "estimator": estimator,
                "activation": dataset.attrs.get("activation", "smooth"),
                "n_samples": int(one["n_samples"]),
            }
            names = ("mean", "standard_error", "reference", "reference_standard_error")
            row |= _numbers(one, names)
            row["ratio"] = row["mean"] / row["reference"] if row["reference"] else math.nan
            row |= _numbers(one, ("passes", "step"))
            row["seconds"] = seconds.get(subject, {}).get(estimator, math.nan)
            yield row


@of_networks("step_sizes")
def step_sizes(dataset: xr.Dataset) -> Iterator[Row]:
    """Second differences over the exact curvature, for each network, number of images and step."""
    for of_images in _along(dataset, "n_images"):
        for one in _along(of_images, "step"):
            gap = (one["difference"] - one["exact"]).values
            yield {
                "activation": dataset.attrs["activation"],
                "n_images": int(one["n_images"]),
                "step": float(one["step"]),
                "difference": float(one["difference"].mean()),
                "exact": float(one["exact"].mean()),
                "gap": float(gap.mean()),
                "gap_standard_error": float(scipy.stats.sem(gap)),
            }


@of_networks("step_sizes")
def softplus(dataset: xr.Dataset) -> Iterator[Row]:
    """Exact curvature with Softplus of growing sharpness in place of ReLU, along the same directions."""
    if "softplus" not in dataset:
        return
    relu = dataset["exact"].isel(n_images=-1).values
    for one in _along(dataset, "sharpness"):
        values = one["softplus"].values
        yield {
            "sharpness": float(one["sharpness"]),
            "curvature": float(values.mean()),
            "relu": float(relu.mean()),
            "gap_standard_error": float(scipy.stats.sem(values - relu)),
        }


@of_networks("kinks")
def kinks(dataset: xr.Dataset) -> Iterator[Row]:
    """What kinks add to second differences: measured, predicted, and which kinks are crossed.

    `measured` and `predicted` are means over directions, in units of v'Hv, and `rest` is their
    difference; `correlation` is that of the two over directions, `slope` that of the line fitted to
    measured against predicted. Kinks are counted for one direction, in the mean; `negative_share`
    is the share of those whose jump is negative. `nearest_kink` is the distance of the nearest kink
    from θ along any direction, in units of one.
    """
    exact, nearest = float(dataset["exact"].mean()), float(dataset["nearest"].min())
    for one in _along(dataset, "step"):
        measured = (one["difference"] - one["exact"]).values
        predicted = one["predicted"].values
        rest = measured - predicted
        varies = np.ptp(predicted) > 0
        crossed = one["n_kinks"].sum("direction")
        n_kinks = float(crossed.sum())
        yield {
            "step": float(one["step"]),
            "n_images": int(dataset.attrs["n_images"]),
            "n_directions": len(rest),
            "exact": exact,
            "measured": measured.mean(),
            "predicted": predicted.mean(),
            "rest": rest.mean(),
            "rest_standard_error": scipy.stats.sem(rest),
            "measured_ratio": measured.mean() / exact,
            "predicted_ratio": predicted.mean() / exact,
            "correlation": np.corrcoef(measured, predicted)[0, 1] if varies else np.nan,
            "slope": np.polyfit(predicted, measured, 1)[0] if varies else np.nan,
            "n_kinks": n_kinks / len(rest),
            "negative_share": float(crossed.sel(sign=-1)) / n_kinks if n_kinks else np.nan,
            "nearest_kink": nearest if np.isfinite(nearest) else np.nan,
        }


@of_networks("eigenpairs")
def surface_checks(dataset: xr.Dataset) -> Iterator[Row]:
    """Sanity: exact curvature along each eigenvector beside the eigenvalue, and the surface's."""
    for pair, one in enumerate(_along(dataset, "pair")):
        row: Row = {"pair": pair} | _numbers(one, ("value", "residual"))
        row |= {name: bool(one[name]) for name in ("converged", "below_noise")}
        row["exact_curvature"] = float(one["exact_curvature"])
        for step, curvature in zip(one["step"].values, one["surface_curvature"].values):
            row[f"surface_{step:g}"] = float(curvature)
        yield row


@of_networks("lines")
def shallow_sides(dataset: xr.Dataset) -> Iterator[Row]:
    """How far the loss itself follows a negative curvature along the direction of λ_min.

    `bends_down_to` is the largest distance up to which all second differences along it are negative, 0 where the
    nearest is not; `edge_difference` is the one at the profile's end; the lowest loss is that of the profile.
    """
    loss = dataset["loss"].sel(direction="smallest")
    distances, values = loss["distance"].values, loss.values
    middle = len(distances) // 2
    distance = distances[middle + 1 :]
    both_sides = values[middle + 1 :] + values[middle - 1 :: -1]
    differences = (both_sides - 2 * values[middle]) / distance**2
    n_negative = int(np.logical_and.accumulate(differences < 0).sum())
    lowest = int(values.argmin())
    yield {
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


@of_networks("image_counts")
def image_counts(measured: xr.Dataset) -> Iterator[Row]:
    """One row per network and number of images: both ends of the spectrum and the trace."""
    columns = [
        *("n_images", "loss", "gradient_norm", "smallest", "smallest_residual", "largest"),
        *("largest_residual", "trace", "trace_standard_error", "n_products"),
    ]
    for one in _along(measured, "count"):
        yield {name: one[name].item() for name in columns}


@of_networks("slices")
def rendered_curvatures(own: Datasets) -> Iterator[Row]:
    """Curvatures of the training loss as its slices are drawn: of the quadratic that fits a region.

    Regions are the middle quarter, half and whole of both half-widths. Curvatures and slopes are per length in
    parameter space; `rise` and `fall` are the heights ½κs² at the region's edge of the same fit in units of the
    half-widths s, in which a saddle is seen; `saddle` is whether both signs occur, and `saddle_inside` whether the
    place where the fit is level lies in the region as well: where not, the slope hides it.
    """
    for plane in ("random", "filter", "hessian"):
        if f"{plane}_train" not in own:
            continue
        loss = own[f"{plane}_train"]["loss"]
        half_widths = np.array([axis[-1] for axis in surface_axes(loss)])
        for region in (0.25, 0.5, 1.0):
            fit = fit_surface(loss, region)
            edge = region * half_widths
            fall, rise = principal_curvatures(fit.curvature * np.outer(edge, edge) / 2)
            smallest, largest = fit.principal
            level = np.abs(fit.stationary_point / edge).max()
            yield {
                "plane": plane,
                "region": region,
                "half_width_alpha": edge[0],
                "half_width_beta": edge[1],
                "curvature_alpha": fit.curvature[0, 0],
                "curvature_beta": fit.curvature[1, 1],
                "smallest": float(smallest),
                "largest": float(largest),
                "slope_alpha": fit.slope[0],
                "slope_beta": fit.slope[1],
                "fall": float(fall),
                "rise": float(rise),
                "residual": float(fit.residual),
                "saddle": bool(fit.is_saddle),
                "saddle_inside": bool(fit.is_saddle) and bool(level <= 1),
            }


@of_networks("apparent_curvature")
def apparent_curvature(dataset: xr.Dataset) -> Iterator[Row]:
    """Mean curvature that random slices show, over t/N, by radius, and how many look like a saddle.

    The interval of the median over planes is that of `median_interval`, the share's Clopper and Pearson's.
    """
    for disc in _along(dataset, "radius"):
        ratios = disc["mean_curvature"].values / float(dataset["reference"])
        low, high = median_interval(ratios)
        finite = np.isfinite(ratios)
        saddle = (disc["smallest"].values < 0) & (disc["largest"].values > 0)
        n_finite, n_saddles = int(finite.sum()), int(saddle[finite].sum())
        share_low, share_high = clopper_pearson(n_saddles, n_finite)
        yield {
            "radius": float(disc["radius"]),
            "n_finite": n_finite,
            "ratio": float(np.median(ratios)),
            "ratio_low": float(low),
            "ratio_high": float(high),
            "rounding": float(disc["rounding"] / abs(dataset["reference"])),
            "saddles": n_saddles / n_finite if n_finite else math.nan,
            "saddles_low": share_low,
            "saddles_high": share_high,
        }


@of_networks("apparent_curvature")
def departure_radii(dataset: xr.Dataset) -> Iterator[Row]:
    """The radius at which the mean curvature that random slices show leaves t/N by half.

    0 where it has left at the smallest radius that rounding leaves, infinity where it does not leave.
    """
    reference, radius = float(dataset["reference"]), dataset["radius"].values
    curvature, rounding = dataset["mean_curvature"].values, dataset["rounding"].values
    found = departure(radius, curvature, reference, rounding)
    yield {
        "n_planes": dataset.sizes["plane"],
        "n_images": int(dataset.attrs["n_images"]),
        **_numbers(dataset, ("reference", "reference_standard_error")),
        "exact": float(dataset["exact_curvature"].mean()),
        "smallest_radius": radius.min(),
        "largest_radius": radius.max(),
        "departure_radius": found.scale,
        "departure_radius_low": found.low,
        "departure_radius_high": found.high,
    }


@of_networks("lowest_losses")
def lowest_losses(dataset: xr.Dataset) -> Iterator[Row]:
    """The lowest loss of the same search in random, Hessian and slope planes, by radius.

    `as_low` is the share of random planes that go at least as low as the Hessian plane, `as_low_as_slope` as low as
    the plane along the slope; a tie within rounding counts as half, and decides nothing in the interval.
    """
    tie = TIE * float(dataset["noise"])
    for disc in _along(dataset, "radius"):
        planes = disc["lowest_loss"].values
        row: Row = {
            "radius": float(disc["radius"]),
            "n_planes": len(planes),
            "n_images": int(dataset.attrs["n_images"]),
            **_numbers(disc, ("loss", "noise", "hessian_lowest_loss", "slope_lowest_loss")),
            "random_lowest_loss": planes.min(),
            "random_median_loss": float(np.median(planes)),
            "random_slope": float(disc["random_slope"]),
        }
        for column, other in (("as_low", "hessian"), ("as_low_as_slope", "slope")):
            low = float(disc[f"{other}_lowest_loss"])
            row[f"{column}_ties"] = int((np.abs(planes - low) <= tie).sum())
            for end, share in zip(ENDS, as_low(planes, low, tie), strict=True):
                row[f"{column}{end}"] = share
        yield row


@published
def architectures(
    labels: Mapping[str, str],
    scores: Datasets,
    eigenpairs: Datasets,
    visibility: Datasets,
    localisation: Datasets,
) -> Iterator[Row]:
    """What kind of network has what kind of curvature: derivatives, spectrum, visibility, and place.

    One row per network whose curvature is localised. The modes are those that the self-test grants; `largest_kind` is
    the kind of parameter with the largest share of the squared entries of λ_max's eigenvector, `largest_layer` the
    layer; those of `smallest` belong to λ_min.
    """
    for network, place in localisation.items():
        own = scores[network]
        row: Row = {
            "network": network,
            "label": labels[network],
            "n_parameters": int(own["n_parameters"]),
            "product_mode": own.attrs.get("product_mode", ""),
            "second_derivative_mode": own.attrs.get("second_derivative_mode", ""),
        }
        row |= _numbers(own, ("test_accuracy", "gradient_norm"))
        ends, sampled = _ends(eigenpairs.get(network)), visibility.get(network)
        row |= {name: ends[name] for name in ("smallest", "largest")}
        row |= _numbers(sampled, SCALE)
        row["mean_curvature"] = row["trace"] / row["n_parameters"]
        shares = _numbers(sampled, (f"visibility_spectrum{end}" for end in ENDS))
        row |= {name.replace("_spectrum", ""): share for name, share in shares.items()}
        for end, pair in (("largest", -1), ("smallest", 0)):
            share = place["share"].isel(pair=pair)
            for group in ("kind", "layer"):
                of_group = share.groupby(group).sum()
                row[f"{end}_{group}"] = str(of_group[group].values[of_group.values.argmax()])
                row[f"{end}_{group}_share"] = float(of_group.max())
        yield row


@published
def correlations(population: xr.Dataset) -> Iterator[Row]:
    """Each statistic of each measure with each generalization gap, with intervals over seeds.

    The columns of a level of label noise are Kendall's τ within its strata.
    """
    for measure in population["measure"].values:
        for gap in population["generalization"].values:
            one = population.sel(measure=measure, generalization=gap)
            row: Row = {"measure": str(measure), "generalization": str(gap)}
            for end in ENDS:
                of_statistics, of_levels = one[f"correlation{end}"], one[f"level_correlation{end}"]
                for statistic in population["statistic"].values:
                    row[f"{statistic}{end}"] = float(of_statistics.sel(statistic=statistic))
                for level in population["level"].values:
                    row[f"noise_{level:g}{end}"] = float(of_levels.sel(level=level))
            yield row


@published
def invariance(population: xr.Dataset) -> Iterator[Row]:
    """What rescaling does to each measure, and whether the invariant ones rank networks better.

    Ratios are of the rescaled network's measure to its own at the scale nearest to 1; a measure is
    invariant where they are 1 to a thousandth at all scales. `advantage` is an invariant measure's
    τ within strata less that of its counterpart: better or worse where its 95 % interval says.
    """
    study = population.sortby("scale")
    itself = int(np.abs(np.log(study["scale"].values)).argmin())
    for measure in population["measure"].values:
        values = study[f"rescaled_{measure}"].values
        ratios = values / values[itself]
        row: Row = {
            "measure": str(measure),
            "ratio_lowest": ratios.min(),
            "ratio_highest": ratios.max(),
            "invariant": bool(np.abs(ratios - 1).max() < 1e-3),
        }
        for gap in population["generalization"].values:
            ends = dict.fromkeys(ENDS, math.nan)
            if measure in population["invariant"].values:
                one = population.sel(invariant=measure, generalization=gap)
                ends = {end: float(one[f"advantage{end}"]) for end in ends}
            row |= {f"advantage_{gap}{end}": value for end, value in ends.items()}
            row |= {f"better_{gap}": ends["_low"] > 0, f"worse_{gap}": ends["_high"] < 0}
        yield row


@published
def levels(population: xr.Dataset) -> Iterator[Row]:
    """Members of each level of each factor that was varied, and Kendall's τ of t/N with both gaps within it.

    Intervals (95 %) are by the jackknife over seeds.

    A correlation over all members that vanishes within the levels of a factor is due to that factor.
    """
    configuration = json.loads(population.attrs["provenance"])["configuration"]
    factors = configuration["settings"]["factors"]
    reached = population["reached"].values.astype(bool)
    varied = [name for name, values in factors.items() if len(values) > 1 and name != "seed"]
    for factor in varied:
        for level in np.unique(population[factor].values):
            of_level = population[factor].values == level
            members = population.isel(member=of_level & reached)
            row: Row = {
                "factor": factor,
                "level": level,
                "n_members": int(of_level.sum()),
                "n_reached": members.sizes["member"],
            }
            for gap in population["generalization"].values:
                tau = jackknife(kendall(members["mean_curvature"], members[gap]), members["seed"])
                row |= {gap: tau.value, f"{gap}_low": tau.low, f"{gap}_high": tau.high}
            yield row


@published
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


@of_networks("gauss_newton")
def gauss_newton(dataset: xr.Dataset) -> Iterator[Row]:
    """The Hessian, its Gauss–Newton part and the rest of each network, by the suffixes of columns."""
    row: Row = _scalars(dataset)
    for one in _along(dataset, "matrix"):
        row |= {
            f"{name}_{one['matrix'].values}": float(one[name])
            for name, value in dataset.items()
            if value.ndim and np.isfinite(one[name])
        }
    yield row


@of_networks("interpolation")
def barriers(dataset: xr.Dataset) -> Iterator[Row]:
    """Lines between networks: distance, losses and accuracies of both ends, barrier, its place."""
    for of_line in _along(dataset, "line"):
        for of_statistics in _along(of_line, "statistics"):
            for one in _along(of_statistics, "split"):
                names = ("start", "end", "statistics", "split")
                row: Row = {name: str(one[name].values) for name in names}
                row["distance"] = float(one["distance"])
                for name in ("loss", "accuracy"):
                    row[f"{name}_start"] = float(one[name][0])
                    row[f"{name}_end"] = float(one[name][-1])
                yield row | _numbers(one, ("barrier", "barrier_x", "accuracy_drop"))


@published
def cost(records: Records) -> pd.DataFrame:
    """What each kind of job took: wall time, processor time and memory, from the run records."""
    of_rules = pd.DataFrame(list(records.values())).groupby("rule")
    table = of_rules.agg(
        jobs=("wall_seconds", "size"),
        wall_seconds=("wall_seconds", "sum"),
        cpu_seconds=("cpu_seconds", "sum"),
        peak_memory_mb=("peak_memory_bytes", "max"),
    )
    return table.assign(peak_memory_mb=table["peak_memory_mb"] / 1e6).reset_index()


@published
def failures(records: Records) -> pd.DataFrame:
    """Jobs whose numbers are not finite, or would be computed from such, and why."""
    rows = [
        (record["wildcards"]["network"], record["rule"], record["failed"])
        for record in records.values()
        if "failed" in record
    ]
    return pd.DataFrame(rows, columns=["network", "rule", "reason"]).drop_duplicates()


@published
def cost_scaling(passes_record: Records) -> Iterator[Row]:
    """Fitted exponents of the seconds of one pass, by kind.

    Along `n_images` for each network; along `n_parameters` seconds per image, over all networks at their largest
    number of images.
    """
    for kind in sorted({kind for record in passes_record.values() for kind in record["seconds"]}):
        sizes, per_image = [], []
        for network, record in passes_record.items():
            counts = [int(n) for n in record["seconds"][kind]]
            seconds = list(record["seconds"][kind].values())
            sizes.append(record["n_parameters"])
            per_image.append(seconds[-1] / counts[-1])
            yield {"network": network, "kind": kind} | _exponent("n_images", counts, seconds)
        yield {"network": "all", "kind": kind} | _exponent("n_parameters", sizes, per_image)


def _exponent(along: str, sizes: list[int], seconds: list[float]) -> Row:
    law = power_law.fit(sizes, seconds)
    return {
        "along": along,
        "points": len(sizes),
        "smallest": min(sizes),
        "largest": max(sizes),
        "exponent": law.exponent if law else math.nan,
        "standard_error": law.standard_error if law else math.nan,
    }
