"""What goes beyond the paper's claims: kinks, true saddles, the population, training, and the rest."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from hessian_directions.geometry.principal_curvatures import visibility
from hessian_directions.reporting.report.panels import Links, Page, Panel
from hessian_directions.reporting.report.text import number, raised

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
    said = '<p class="see">Analyses beyond the claims.</p>'
    return Page("beyond", "Beyond", said, panels) if panels else None


def curves(x: str, y: str, drawn: list[dict[str, Any]], label: str = "", **more: Any) -> Any:
    """One picture of report.js's `curves`: axes, and curves of x, y and perhaps low and high."""
    return {"label": label, "x": x, "y": y, "curves": drawn, **more}


def _curve(name: str, x: Any, y: Any, error: Any = None, **look: Any) -> dict[str, Any]:
    """One curve of such a picture, from y − |error| to y + |error| where there is an error."""
    if error is not None:
        look = {"low": y - abs(error), "high": y + abs(error), **look}
    return {"name": name, "x": x, "y": y, **look}


# Of networks.

Draw = Callable[[xr.Dataset], list[Any]]


def _of_networks(evidence: Evidence) -> Iterator[Panel]:
    for name, (title, see, pictures) in OF_NETWORKS.items():
        drawn = []
        for network, dataset in evidence.of_networks.get(name, {}).items():
            label = evidence.labels.get(network, network)
            for picture in pictures(dataset):
                both = f"{label}: {picture['label']}" if picture["label"] else label
                drawn.append({**picture, "label": both, "network": network})
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
    predicted, measured = study["predicted"] / scale, (study["difference"] - study["exact"]) / scale
    drawn = []
    for step in study["step"].values:
        name = raised(f"ε = {number(step, 2)}")
        drawn.append(
            _curve(name, predicted.sel(step=step), measured.sel(step=step), mode="markers")
        )
    equal = np.array([predicted.values.min(initial=0.0), predicted.values.max(initial=0.0)])
    drawn.append(_curve("equal", equal, equal, colour="ink"))
    return [curves("predicted excess", "measured excess", drawn)]


def _trajectory(run: xr.Dataset) -> list[Any]:
    epoch = run["epoch"].values
    losses = [
        _curve("training loss", epoch, run["loss"], colour="smallest"),
        _curve("test loss", epoch, run["test_loss"], colour="orange"),
        _curve("‖∇L‖", epoch, run["gradient_norm"], colour="grey"),
    ]
    ends = [
        _curve("λₘₐₓ", epoch, run["largest"], run["largest_residual"], colour="largest"),
        _curve("λₘᵢₙ", epoch, run["smallest"], run["smallest_residual"], colour="smallest"),
    ]
    error = run["trace_standard_error"]
    traces = [_curve("trace", epoch, run["trace"], error, colour="purple")]
    look = {"mode": "lines+markers", "colour": "ink"}
    epochs = [f"epoch {number(value, 4)}" for value in epoch]
    path = _curve("path of the weights", run["alpha"], run["beta"], **look, text=epochs)
    surface = run["loss_surface"].transpose("beta_grid", "alpha_grid")
    alpha, beta = run["alpha_grid"].values, run["beta_grid"].values
    plane = {"x": alpha, "y": beta, "z": np.log10(surface.values), "title": "log₁₀ L"}
    x, y = "α, along λₘₐₓ at the end", "β, along λₘᵢₙ"
    return [
        curves("epoch", "λ", ends, "eigenvalues"),
        curves("epoch", "trace", traces, "trace"),
        curves("epoch", "loss, gradient", losses, "loss", logarithmic="y"),
        curves(x, y, [path], "path over the loss", map=plane),
    ]


def _apparent_curvature(found: xr.Dataset) -> list[Any]:
    ratio = found["mean_curvature"] / float(found["reference"])
    drawn = [
        _of_planes("median of the planes, and 80 % of them", ratio, "largest"),
        _curve("t/N", found["radius"][[0, -1]], np.ones(2), colour="ink", dash="dash"),
    ]
    return [curves("radius of the disc", "curvature over t/N", drawn, logarithmic="xy")]


def _of_planes(name: str, values: xr.DataArray, colour: str) -> dict[str, Any]:
    """The median of values (plane, radius) over the planes, and the middle 80 % of them."""
    values = values.transpose("plane", "radius")
    low, middle, high = np.nanquantile(values, (0.1, 0.5, 0.9), axis=0)
    return _curve(name, values["radius"], middle, low=low, high=high, colour=colour)


def _gauss_newton(parts: xr.Dataset) -> list[Any]:
    names = {"hessian": "H", "gauss_newton": "G", "rest": "H − G"}
    matrices = [names[str(matrix)] for matrix in parts["matrix"].values]
    pictures = []
    for quantity, error, said in (
        ("trace", "trace_standard_error", "trace"),
        ("frobenius_norm", "frobenius_standard_error", "Frobenius norm"),
        ("largest", "largest_residual", "λₘₐₓ"),
        ("smallest", "smallest_residual", "λₘᵢₙ"),
    ):
        drawn = _curve(said, matrices, parts[quantity], parts[error], mode="markers")
        pictures.append(curves("", said, [drawn], said))
    return pictures


def _trace_estimators(found: xr.Dataset) -> list[Any]:
    # Each run of the workflow asks this module what it draws, and matplotlib takes long to import.
    from hessian_directions.reporting.figures import drawing

    names = [drawing.ESTIMATORS[str(name)][0] for name in found["estimator"].values]
    ends, reference = [names[0], names[-1]], [float(found["reference"])] * 2
    look = {"mode": "markers", "colour": "largest"}
    drawn = [
        _curve("mean ± standard error", names, found["mean"], found["standard_error"], **look),
        _curve("reference", ends, reference, colour="ink", dash="dash"),
    ]
    return [curves("", "trace", drawn)]


def _lowest_losses(found: xr.Dataset) -> list[Any]:
    radius, loss, mode = found["radius"], float(found["loss"]), "lines+markers"
    hessian, slope = found["hessian_lowest_loss"] - loss, found["slope_lowest_loss"] - loss
    drawn = [
        _of_planes("random planes, and 80 % of them", found["lowest_loss"] - loss, "grey"),
        _curve("Hessian plane", radius, hessian, mode=mode, colour="largest"),
        _curve("plane along the slope", radius, slope, mode=mode, colour="green"),
    ]
    return [curves("radius of the disc", "lowest loss − L(θ*)", drawn, logarithmic="x")]


COLOURS = ("smallest", "largest", "green", "purple", "orange", "sky")


def _interpolation(found: xr.Dataset) -> list[Any]:
    pictures = []
    for split, said in (("train", "training"), ("test", "test")):
        drawn = []
        for i, colour in zip(range(found.sizes["line"]), itertools.cycle(COLOURS)):
            line = found.isel(line=i)
            between = f"{line['start'].values} to {line['end'].values}"
            for how, dash in zip(found["statistics"].values, ("solid", "dot")):
                loss = line["loss"].sel(split=split, statistics=how)
                look = {"dash": dash, "colour": colour}
                drawn.append(_curve(f"{between}, {how}", found["x"], loss, **look))
        pictures.append(curves("from one network to the other", "loss", drawn, f"{said} loss"))
    return pictures


OF_NETWORKS: dict[str, tuple[str, str, Draw]] = {
    "kinks": (
        "Kinks: measured against predicted",
        "What second differences of the loss measure beside the curvature, against what the kinks "
        "within the step are predicted to add: points on the line are explained by kinks, points off "
        "it have too large a step.",
        _kinks,
    ),
    "trajectory": (
        "Curvature along training",
        "How both ends of the spectrum and the trace move while the loss falls.",
        _trajectory,
    ),
    "gauss_newton": (
        "The Gauss–Newton part",
        "G is positive semidefinite, so that negative curvature comes from the rest, H − G. How much "
        "of the trace and of the norm does G have?",
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
    points, saddles, population = map(
        evidence.of_profile.get, ("critical_points", "saddles", "population")
    )
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
        r = saddles["trace"] / saddles["frobenius_norm"]
        named = [f"saddle ñ={n}" for n in saddles["saddle"].values]
        shares.append(_shares("synthetic saddles", named, r, saddles, "grey"))
    if points is not None:
        tolerance = points["zero_tolerance"]
        both = (points["smallest"] < -tolerance) & (points["largest"] > tolerance)
        kinds = zip(points["origin"].values.tolist(), points["layers"].values.tolist())
        for origin, layers in dict.fromkeys(kinds):
            chosen = both & (points["origin"] == origin) & (points["layers"] == layers)
            one = points.isel(point=chosen.values)
            if not one.sizes["point"]:
                continue
            name = f"{origin}, {'all layers' if layers == 'all' else layers}"
            # As the verdicts name them.
            named = [f"critical point {number}" for number in np.flatnonzero(chosen)]
            shares.append(_shares(name, named, one["r"], one, ""))
            share = one["index"] / one["n_parameters"]
            losses.append(_curve(name, share, one["loss"], mode="markers", text=named))
            ends += [float(one["r"].min()), float(one["r"].max())]
    span = np.linspace(min(ends), max(ends), 200)
    limit = visibility(span)
    # Rarer than this no slice was drawn.
    limit = np.where(limit > 1e-6, limit, np.nan)
    shares.append(_curve("exp(−r²/4)/√2", span, limit, colour="ink"))
    said = "share of random slices that show it"
    pictures = [curves("r = t/f", said, shares, "visibility", logarithmic="y")]
    if losses:
        pictures.append(curves("index/N", "loss", losses, "index and loss"))
    links = dict([*of.files.get("critical_points", ()), *of.files.get("saddles", ())])
    return Panel(
        "beyond-critical_points",
        "How visible saddles are",
        "Against r, trace over Frobenius norm; the curve is the Gaussian limit. Where no slice shows "
        "the saddle, the point is the upper end of the interval. The other picture has the loss against "
        "the share of curvatures that are negative.",
        "curves",
        {"pictures": pictures},
        links=tuple(links.items()),
    )


def _shares(
    name: str, named: list[str], r: Any, dataset: xr.Dataset, colour: str
) -> dict[str, Any]:
    """The share of slices that show each saddle, against r."""
    sampled, low, high = (dataset[f"visibility_{end}"].values for end in ("sampled", "low", "high"))
    unseen = sampled == 0
    ends = {"low": np.where(unseen, high / 3, low), "high": high}
    look = {"mode": "markers", "text": named, "colour": colour}
    return _curve(name, r, np.where(unseen, high, sampled), **ends, **look)


FACTORS = ("label_noise", "batch_size", "learning_rate", "weight_decay", "width", "seed")
GAPS = {
    "gap_loss": "gap of the loss, test − training",
    "gap_accuracy": "gap of the accuracy, training − test",
}


def _population(population: xr.Dataset, links: Links) -> Panel:
    reached = population.isel(member=population["reached"].values.astype(bool))
    # The first is shown first: what random slices show.
    names = sorted(map(str, reached["measure"].values), key=lambda name: name != "mean_curvature")
    return Panel(
        "beyond-population",
        "Flatness and generalization",
        "Every point is a trained network; strata are networks alike in a factor. Within them "
        "Kendall's τ says how well a measure orders the networks by their gap.",
        "population",
        {
            "measures": {name: reached[name].values for name in names},
            "gaps": {said: reached[name].values for name, said in GAPS.items()},
            "factors": {
                name.replace("_", " "): reached[name].values for name in FACTORS if name in reached
            },
        },
        links=links,
    )
