"""What goes beyond the paper's claims: kinks, true saddles, the population, training, and the rest."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from hessian_directions.geometry.principal_curvatures import visibility
from hessian_directions.reporting.report.panels import Links, Page, Panel
from hessian_directions.reporting.report.text import number

Networks = Mapping[str, xr.Dataset]


@dataclass(frozen=True)
class Evidence:
    """Artifacts beyond those of `results.Results`, each as its analysis describes it.

    Attributes:
        of_networks: Analysis → network → artifact.
        of_profile: Analysis → artifact: saddles, critical_points, population.
        labels: Printed names of the networks.
        files: Analysis → where its artifacts and their figures lie.
    """

    of_networks: Mapping[str, Networks] = field(default_factory=dict)
    of_profile: Mapping[str, xr.Dataset] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Links] = field(default_factory=dict)


def page(evidence: Evidence) -> Page | None:
    """The page, with a panel for each analysis that there is; None where there is none."""
    panels = [*_of_profile(evidence), *_of_networks(evidence)]
    said = '<p class="see">What the paper does not ask, measured on the same networks.</p>'
    return Page("beyond", "Beyond", said, panels) if panels else None


def curves(x: str, y: str, drawn: list[dict[str, Any]], label: str = "", **more: Any) -> Any:
    """One picture of report.js's `curves`: axes, and curves of x, y and perhaps low and high."""
    return {"label": label, "x": x, "y": y, "curves": drawn, **more}


# Of networks.

Draw = Callable[[xr.Dataset], list[Any]]


def _of_networks(evidence: Evidence) -> Iterator[Panel]:
    for name, (title, see, pictures) in OF_NETWORKS.items():
        drawn = []
        for network, dataset in evidence.of_networks.get(name, {}).items():
            label = evidence.labels.get(network, network)
            for picture in pictures(dataset):
                both = f"{label}: {picture['label']}" if picture["label"] else label
                drawn.append({**picture, "label": both})
        if drawn:
            yield Panel(
                f"beyond-{name}",
                title,
                see,
                "curves",
                {"pictures": drawn},
                links=evidence.files.get(name, ()),
            )


def _kinks(study: xr.Dataset) -> list[Any]:
    scale = abs(float(study["exact"].mean())) or 1.0
    drawn: list[dict[str, Any]] = []
    ends = [0.0]
    for step in study["step"].values:
        one = study.sel(step=step)
        predicted = one["predicted"].values / scale
        measured = (one["difference"] - one["exact"]).values / scale
        ends += [float(predicted.min()), float(predicted.max())]
        drawn.append(
            {"name": f"ε = {number(step, 2)}", "x": predicted, "y": measured, "mode": "markers"}
        )
    equal = np.array([min(ends), max(ends)])
    drawn.append({"name": "equal", "x": equal, "y": equal, "colour": "ink"})
    return [curves("predicted excess", "measured excess", drawn)]


def _trajectory(run: xr.Dataset) -> list[Any]:
    epoch = run["epoch"].values
    losses = [
        {"name": "training loss", "x": epoch, "y": run["loss"].values, "colour": "smallest"},
        {"name": "‖∇L‖", "x": epoch, "y": run["gradient_norm"].values, "colour": "grey"},
    ]
    if "test_loss" in run:
        test = {"name": "test loss", "x": epoch, "y": run["test_loss"].values, "colour": "orange"}
        losses.insert(1, test)
    ends = [
        {
            "name": said,
            "x": epoch,
            "y": run[name].values,
            "low": (run[name] - abs(run[f"{name}_residual"])).values,
            "high": (run[name] + abs(run[f"{name}_residual"])).values,
            "colour": name,
        }
        for name, said in (("largest", "λₘₐₓ"), ("smallest", "λₘᵢₙ"))
    ]
    trace, error = run["trace"], run["trace_standard_error"]
    traces = [
        {
            "name": "trace",
            "x": epoch,
            "y": trace.values,
            "low": (trace - error).values,
            "high": (trace + error).values,
            "colour": "purple",
        }
    ]
    path = {
        "name": "path of the weights",
        "x": run["alpha"].values,
        "y": run["beta"].values,
        "mode": "lines+markers",
        "colour": "ink",
        "text": [f"epoch {number(value, 4)}" for value in epoch],
    }
    surface = run["loss_surface"].transpose("alpha_grid", "beta_grid")
    plane = {
        "x": run["alpha_grid"].values,
        "y": run["beta_grid"].values,
        "z": np.log10(surface.values.T),
        "title": "log₁₀ L",
    }
    return [
        curves("epoch", "λ", ends, "eigenvalues"),
        curves("epoch", "trace", traces, "trace"),
        curves("epoch", "loss, gradient", losses, "loss", logarithmic="y"),
        curves(
            "α, along λₘₐₓ at the end", "β, along λₘᵢₙ", [path], "path over the loss", map=plane
        ),
    ]


def _apparent_curvature(found: xr.Dataset) -> list[Any]:
    reference = float(found["reference"])
    ratio = found["mean_curvature"].transpose("plane", "radius").values / reference
    radius = found["radius"].values
    low, middle, high = np.nanquantile(ratio, (0.1, 0.5, 0.9), axis=0)
    drawn = [
        {"name": "median of the planes, and 80 % of them", "x": radius, "y": middle}
        | {"low": low, "high": high, "colour": "largest"},
        {"name": "t/N", "x": radius[[0, -1]], "y": np.ones(2), "colour": "ink", "dash": "dash"},
    ]
    return [curves("radius of the disc", "curvature over t/N", drawn, logarithmic="xy")]


def _gauss_newton(parts: xr.Dataset) -> list[Any]:
    names = {"hessian": "H", "gauss_newton": "G", "rest": "H − G"}
    pictures = []
    for quantity, error, said in (
        ("trace", "trace_standard_error", "trace"),
        ("frobenius_norm", "frobenius_standard_error", "Frobenius norm"),
        ("largest", "largest_residual", "λₘₐₓ"),
        ("smallest", "smallest_residual", "λₘᵢₙ"),
    ):
        value, spread = parts[quantity], parts[error]
        drawn = {
            "name": said,
            "x": [names[str(matrix)] for matrix in parts["matrix"].values],
            "y": value.values,
            "low": (value - abs(spread)).values,
            "high": (value + abs(spread)).values,
            "mode": "markers",
        }
        pictures.append(curves("", said, [drawn], said))
    return pictures


def _trace_estimators(found: xr.Dataset) -> list[Any]:
    mean, error = found["mean"], found["standard_error"]
    names = [str(name).replace("_", " ") for name in found["estimator"].values]
    reference = float(found["reference"])
    drawn: list[dict[str, Any]] = [
        {"name": "mean ± standard error", "x": names, "y": mean.values, "mode": "markers"}
        | {"low": (mean - error).values, "high": (mean + error).values, "colour": "largest"},
        {"name": "reference", "x": [names[0], names[-1]], "y": [reference] * 2, "colour": "ink"}
        | {"dash": "dash"},
    ]
    return [curves("", "trace", drawn)]


def _lowest_losses(found: xr.Dataset) -> list[Any]:
    radius, loss = found["radius"].values, float(found["loss"])
    change = found["lowest_loss"].transpose("plane", "radius").values - loss
    low, middle, high = np.nanquantile(change, (0.1, 0.5, 0.9), axis=0)
    drawn = [
        {"name": "random planes, and 80 % of them", "x": radius, "y": middle}
        | {"low": low, "high": high, "colour": "grey"},
        {
            "name": "Hessian plane",
            "x": radius,
            "y": found["hessian_lowest_loss"].values - loss,
            "mode": "lines+markers",
            "colour": "largest",
        },
        {
            "name": "plane along the slope",
            "x": radius,
            "y": found["slope_lowest_loss"].values - loss,
            "mode": "lines+markers",
            "colour": "green",
        },
    ]
    return [curves("radius of the disc", "lowest loss − L(θ*)", drawn, logarithmic="x")]


def _interpolation(found: xr.Dataset) -> list[Any]:
    pictures = []
    for split, said in (("train", "training"), ("test", "test")):
        loss = found["loss"].sel(split=split).transpose("line", "statistics", "x")
        drawn = [
            {
                "name": f"{found['start'].values[i]} to {found['end'].values[i]}, {how}",
                "x": found["x"].values,
                "y": loss.values[i, k],
                "dash": "solid" if k == 0 else "dot",
            }
            for i in range(loss.sizes["line"])
            for k, how in enumerate(found["statistics"].values)
        ]
        pictures.append(curves("from one network to the other", "loss", drawn, f"{said} loss"))
    return pictures


OF_NETWORKS: dict[str, tuple[str, str, Draw]] = {
    "kinks": (
        "Kinks: measured against predicted",
        "What second differences of the loss measure beside the curvature, and what the kinks "
        "within the step are predicted to add: points lie on the line where this is all of it, and "
        "off it where a step is too large.",
        _kinks,
    ),
    "trajectory": (
        "Curvature along training",
        "How both ends of the spectrum and the trace move while the loss falls.",
        _trajectory,
    ),
    "gauss_newton": (
        "The Gauss–Newton part",
        "G is positive semidefinite, so that what is negative lies in the rest, H − G. How much of "
        "the trace and of the norm is G's?",
        _gauss_newton,
    ),
    "apparent_curvature": (
        "The curvature that slices show",
        "Of a smooth loss it is the mean curvature t/N over small discs, kinks add to it; over "
        "discs as large as slices are drawn it may be another.",
        _apparent_curvature,
    ),
    "lowest_losses": (
        "Points of lower loss",
        "How far below L(θ*) the loss falls within a distance, in random planes, in the Hessian "
        "plane and, as a control, in a plane along the slope.",
        _lowest_losses,
    ),
    "trace_estimators": (
        "Estimates of the trace",
        "Whether estimators agree with the reference within their errors: differences of the loss "
        "see kinks, which the others do not.",
        _trace_estimators,
    ),
    "interpolation": (
        "Between networks",
        "The loss on the way from one trained network to another, with BatchNorm's statistics "
        "interpolated or estimated anew.",
        _interpolation,
    ),
}


# Of the profile.


def _of_profile(evidence: Evidence) -> Iterator[Panel]:
    points, population = (
        evidence.of_profile.get("critical_points"),
        evidence.of_profile.get("population"),
    )
    saddles = evidence.of_profile.get("saddles")
    if points is not None:
        yield _true_saddle(points, evidence.files.get("critical_points", ()))
    if points is not None or saddles is not None:
        yield _critical_points(points, saddles, evidence)
    if population is not None:
        yield _population(population, evidence.files.get("population", ()))


def _true_saddle(points: xr.Dataset, links: Links) -> Panel:
    point = points.isel(point=int(points["shown"]))
    planes = {}
    for plane in points["plane"].values:
        surface = point["surface"].sel(plane=plane).transpose("alpha", "beta")
        half_widths = point["half_width"].sel(plane=plane).values
        planes[str(plane)] = {
            "alpha": surface["alpha"].values * half_widths[0],
            "beta": surface["beta"].values * half_widths[1],
            "cosine": 0.0,
            "losses": {"train": {"origin": float(point["loss"]), "change": surface.values}},
        }
    share, above = 100 * float(point["visibility_sampled"]), 100 * float(point["visibility_high"])
    seen = f"{share:.2g} %" if share else f"less than {above:.1g} %"
    return Panel(
        "beyond-true_saddle",
        "A true saddle",
        f"A critical point of a network with {int(point['n_parameters'])} parameters, "
        f"{int(point['index'])} of its curvatures negative: {seen} of random slices show it. Choose "
        "the random plane, then that of the Hessian directions.",
        "slices",
        {"planes": planes},
        links=links,
    )


def _critical_points(points: xr.Dataset | None, saddles: xr.Dataset | None, of: Evidence) -> Panel:
    shares, losses = [], []
    ends = [-3.0, 6.0]
    if saddles is not None:
        r = (saddles["trace"] / saddles["frobenius_norm"]).values
        shares.append(_shares("synthetic saddles", r, saddles, "grey"))
    if points is not None:
        tolerance = points["zero_tolerance"]
        both = (points["smallest"] < -tolerance) & (points["largest"] > tolerance)
        for origin, layers in dict.fromkeys(
            zip(points["origin"].values.tolist(), points["layers"].values.tolist(), strict=True)
        ):
            chosen = both & (points["origin"] == origin) & (points["layers"] == layers)
            one = points.isel(point=chosen.values)
            if not one.sizes["point"]:
                continue
            layers_said = "all layers" if layers == "all" else layers
            name = f"{origin}, {layers_said}"
            shares.append(_shares(name, one["r"].values, one, ""))
            losses.append(
                {
                    "name": name,
                    "x": (one["index"] / one["n_parameters"]).values,
                    "y": one["loss"].values,
                    "mode": "markers",
                }
            )
            ends += [float(one["r"].min()), float(one["r"].max())]
    span = np.linspace(min(ends), max(ends), 200)
    limit = visibility(span)
    limit = np.where(limit > LOWEST, limit, np.nan)
    shares.append({"name": "exp(−r²/4)/√2", "x": span, "y": limit, "colour": "ink"})
    pictures = [
        curves(
            "r = t/f", "share of random slices that show it", shares, "visibility", logarithmic="y"
        )
    ]
    if losses:
        pictures.append(curves("index/N", "loss", losses, "index and loss"))
    links = dict([*of.files.get("critical_points", ()), *of.files.get("saddles", ())])
    return Panel(
        "beyond-critical_points",
        "How visible saddles are",
        "Against r, trace over Frobenius norm; the curve is the Gaussian limit. Where no slice shows "
        "the saddle, the point is the upper end of the interval.",
        "curves",
        {"pictures": pictures},
        links=tuple(links.items()),
    )


def _shares(name: str, r: Any, dataset: xr.Dataset, colour: str) -> dict[str, Any]:
    sampled, low, high = (dataset[f"visibility_{end}"].values for end in ("sampled", "low", "high"))
    unseen = sampled == 0
    return {
        "name": name,
        "x": r,
        "y": np.where(unseen, high, sampled),
        "low": np.where(unseen, high / 3, low),
        "high": np.where(unseen, high, high),
        "mode": "markers",
        "colour": colour,
    }


# Rarer than this no slice was drawn.
LOWEST = 1e-6

FACTORS = ("label_noise", "batch_size", "learning_rate", "weight_decay", "width", "seed")
GAPS = {
    "gap_loss": "gap of the loss, test − training",
    "gap_accuracy": "gap of the accuracy, training − test",
}


def _population(population: xr.Dataset, links: Links) -> Panel:
    reached = population.isel(member=population["reached"].values.astype(bool))
    names = [str(name) for name in reached["measure"].values]
    return Panel(
        "beyond-population",
        "Flatness and generalization",
        "Every point is a trained network; strata are networks alike in a factor. Within them "
        "Kendall's τ says how well a measure orders the networks by their gap.",
        "population",
        {
            "measures": {name: reached[name].values for name in names},
            "gaps": {said: reached[name].values for name, said in GAPS.items() if name in reached},
            "factors": {
                name.replace("_", " "): reached[name].values for name in FACTORS if name in reached
            },
        },
        links=links,
    )
