"""The page of one network: its numbers, its pictures, and whether they are right."""

import math
from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from hessian_directions.geometry.principal_curvatures import (
    distribution_smallest,
    principal_curvatures,
)
from hessian_directions.geometry.quadratic_fit import surface_axes
from hessian_directions.reporting.report import text
from hessian_directions.reporting.report.panels import Page, Panel
from hessian_directions.reporting.report.results import SPLITS, Results, checks
from hessian_directions.reporting.report.text import count, number, with_error
from hessian_directions.reporting.shares import added
from hessian_directions.statistics.proportions import wilson


def page(name: str, results: Results) -> Page:
    """The page of a network, with whose key the addresses of its panels begin."""
    parts = (_slices, _turning, _lines, _spectrum, _localisation, _visibility, _settings)
    panels = [panel for part in parts for panel in part(name, results)]
    facts = (
        f'<div class="columns"><div>{_scores(results)}</div><div>{_scalars(results)}</div></div>'
    )
    return Page(name, results.label, _summary(results) + facts, panels)


def _summary(results: Results) -> str:
    """The result first, in sentences."""
    said = [f"Numbers are missing: {results.failed}."] if results.failed else []
    pairs, trace = results.eigenpairs, results.trace
    if pairs is not None:
        low, high = float(pairs["value"].min()), float(pairs["value"].max())
        floor = float(pairs.attrs["noise_floor"])
        both = low < -floor and high > floor
        what = "Hessian has curvature of both signs: its eigenvalues" if both else "eigenvalues"
        said.append(f"The {what} reach from {number(low)} to {number(high)}.")
        unconverged = int((~pairs["converged"].values.astype(bool)).sum())
        if unconverged:
            said.append(f"{unconverged} of {pairs.sizes['pair']} eigenpairs did not converge.")
    if trace is not None:
        said.append(f"Its trace is {with_error(trace['trace'], trace['trace_standard_error'])}.")
    compared = checks(results)
    if differing := sum(not check.agrees for check in compared):
        said.append(f"{differing} of {len(compared)} checks DIFFER: see “Is the plot right?”.")
    sampled = results.visibility
    if sampled is not None:
        share, n = float(sampled["visibility_direct"]), sampled.sizes["sample"]
        said.append(
            f"Of {n} random slices {round(share * n) or 'none'} show curvature of both signs "
            f"(95 % interval of the share: {100 * float(sampled['visibility_direct_low']):.2g} to "
            f"{100 * float(sampled['visibility_direct_high']):.2g} %)."
        )
    return f"<p class='summary'>{text.raised(' '.join(said))}</p>" if said else ""


def _scores(results: Results) -> str:
    measured = results.scores
    if measured is None:
        return ""
    rows = [
        ("parameters N", count(measured["n_parameters"])),
        ("samples the loss is a mean over", count(measured["n_images"])),
        ("loss L", number(measured["loss"])),
        ("length of the gradient ‖∇L‖", number(measured["gradient_norm"])),
        ("length of the weights ‖θ‖", number(measured["theta_norm"])),
    ]
    for split, said in SPLITS.items():
        for score in ("loss", "accuracy"):
            value = float(measured.get(f"{split}_{score}", math.nan))
            if not math.isnan(value):
                rows.append((f"{said} {score}", number(value)))
    html = "<h3>Scores</h3>" + text.table(None, rows)
    if data := measured.attrs.get("data"):
        html += f"<p class='note'>Data: {escape(data)}.</p>"
    if test := measured.attrs.get("self_test"):
        html += "<details><summary>The self-test has passed</summary>"
        html += f"<p class='note'>{escape(test)}</p></details>"
    return html


def _scalars(results: Results) -> str:
    trace, sampled, spectrum = results.trace, results.visibility, results.spectrum
    rows: list[tuple[str, str]] = []
    if trace is not None:
        said = with_error(trace["trace"], trace["trace_standard_error"])
        if "n_samples" in trace:
            said += f" ({int(trace['n_samples'])} samples)"
        rows.append(("trace t = tr H", said))
        if results.scores is not None:
            mean = float(trace["trace"]) / float(results.scores["n_parameters"])
            rows.append(("mean curvature t/N", number(mean)))
    for source in (sampled, trace, spectrum):
        if source is not None and "frobenius_norm" in source:
            error = source.get("frobenius_standard_error", math.nan)
            rows.append(("Frobenius norm f = ‖H‖_F", with_error(source["frobenius_norm"], error)))
            break
    if sampled is not None:
        rows.append(("r = t/f", number(sampled["r"])))
        ends = ("", "_low", "_high")
        share, low, high = (number(sampled[f"visibility_direct{end}"], 2) for end in ends)
        said = "share of random slices with curvature of both signs"
        rows.append((said, f"{share} ({low} to {high})"))
        for kind, how in (("spectrum", "predicted by the spectrum"), ("formula", "exp(−r²/4)/√2")):
            if f"visibility_{kind}" in sampled:
                rows.append((f"… {how}", number(sampled[f"visibility_{kind}"], 2)))
    return "<h3>Trace and visibility</h3>" + text.table(None, rows) if rows else ""


def _slices(name: str, results: Results) -> Iterator[Panel]:
    planes: dict[str, Any] = {}
    for plane in ("random", "filter", "hessian"):
        for split in SPLITS:
            if (key := f"{plane}_{split}") not in results.slices:
                continue
            loss = results.slices[key]["loss"].transpose("alpha", "beta")
            alpha, beta = surface_axes(loss)
            origin = float(loss.sel(alpha=0.0, beta=0.0))
            cosine = float(loss.attrs["cosine"])
            shown = planes.setdefault(
                plane, {"alpha": alpha, "beta": beta, "cosine": cosine, "losses": {}}
            )
            shown["losses"][split] = {"origin": origin, "change": loss.values - origin}
    if planes:
        yield Panel(
            f"{name}-slices",
            "The loss around the weights",
            "Blue is lower than the loss L(θ*) of the network, red higher, and the black line joins "
            "the points that have it. In the Hessian plane, α along the eigenvector of λ_max and β "
            "along that of λ_min, a saddle shows both colours. Colours and heights are logarithmic "
            "beyond 2 % of the largest change, “height in proportion” undoes it for heights. Each axis "
            "reaches as far as the curvature along it suggests, unless half-widths were set.",
            "slices",
            {"planes": planes},
            _sanity(results),
            results.files.get("slices", ()),
        )
    elif checked := _sanity(results):
        yield Panel(f"{name}-checks", "Is it right?", html=checked)


def _sanity(results: Results) -> str:
    compared = checks(results)
    if not compared:
        return ""
    rows = []
    for check in compared:
        numbers = number(check.found, 7), number(check.expected, 7), number(check.tolerance, 2)
        rows.append(("agrees" if check.agrees else "DIFFERS", check.what, *numbers))
    failed = sum(not check.agrees for check in compared)
    said = f"{failed} of {len(compared)} DIFFER." if failed else f"All {len(compared)} agree."
    heads = ("", "what is compared", "found", "expected", "allowed")
    return (
        f"<details{' open' if failed else ''}><summary>Is the plot right? {said}</summary>"
        f"{text.table(heads, rows)}{_drawn_curvature(results)}</details>"
    )


def _drawn_curvature(results: Results) -> str:
    """Second differences of the drawn Hessian slice, which finite steps and kinks change."""
    surface = results.slices.get("hessian_train")
    if surface is None or min(surface["loss"].shape) < 3:
        return ""
    loss = surface["loss"]
    found = []
    for across, distances in zip(("beta", "alpha"), surface_axes(loss)):
        middle = len(distances) // 2
        low, centre, high = loss.sel({across: 0.0}).values[middle - 1 : middle + 2].tolist()
        found.append(number((low - 2 * centre + high) / distances[middle + 1] ** 2))
    said = (
        "Between neighbouring points of the drawn Hessian slice second differences of the loss are "
        f"{found[0]} along α and {found[1]} along β: finite steps, and kinks, which no exact "
        "derivative sees."
    )
    return f"<p class='note'>{text.raised(said)}</p>"


def _turning(name: str, results: Results) -> Iterator[Panel]:
    turned = results.turning
    if turned is None:
        return
    loss = turned["loss"].transpose("angle", "alpha", "beta")
    origin = float(loss.isel(angle=0).sel(alpha=0.0, beta=0.0))
    smallest, largest = principal_curvatures(turned["projected_hessian"].values)
    yield Panel(
        f"{name}-turning",
        "The plane turns",
        "From the random plane (0°) to that of the Hessian directions (90°): where the smaller "
        "principal curvature κ₋ falls below zero the saddle comes out. Axes and colours change with "
        "the angle. The numbers are those of "
        "the exact projected Hessian of each plane.",
        "turning",
        {
            "angle": turned["angle"].values,
            "points": turned["alpha"].values,
            "half_width": turned["half_width"].values,
            "origin": origin,
            "change": loss.values - origin,
            "smallest": smallest,
            "largest": largest,
        },
        links=results.files.get("turning", ()),
    )


def _lines(name: str, results: Results) -> Iterator[Panel]:
    lines = results.lines
    if lines is None:
        return
    yield Panel(
        f"{name}-lines",
        "Lines through the weights",
        "Dashed parabolas have the exact slope and curvature at the network: where the loss "
        "leaves them, the quadratic picture ends. A trained network is no critical point, so lines "
        "have slopes.",
        "lines",
        {
            "direction": [str(direction) for direction in lines["direction"].values],
            "distance": lines["distance"].values,
            "loss": lines["loss"].transpose("direction", "distance").values,
            "slope": lines["slope"].values,
            "curvature": lines["curvature"].values,
        },
        links=results.files.get("lines", ()),
    )


def _spectrum(name: str, results: Results) -> Iterator[Panel]:
    spectrum, pairs, trace = results.spectrum, results.eigenpairs, results.trace
    if spectrum is None and pairs is None:
        return
    data: dict[str, Any] = {}
    see = "Both ends of the spectrum, with what they may be wrong by."
    if spectrum is not None:
        see = (
            "How many curvatures there are of each size and sign, and where both ends lie. The axis "
            "is arcsinh(λ/λ₀), linear within λ₀ of zero and logarithmic beyond: a smaller λ₀ "
            "stretches it there."
        )
        data = {"values": [] if pairs is None else pairs["value"].values}
        if trace is not None and "ritz_value" in trace:
            data["ritz"] = trace["ritz_value"].values
        data |= {
            "nodes": spectrum["nodes"].values,
            "weights": spectrum["weights"].values,
            "n_parameters": int(spectrum["n_parameters"]),
        }
    links = [*results.files.get("spectrum", ()), *results.files.get("eigenpairs", ())]
    yield Panel(
        f"{name}-spectrum",
        "The spectrum",
        see,
        "spectrum" if data else "",
        data,
        _eigenpairs(results),
        tuple(dict(links).items()),
    )


def _eigenpairs(results: Results) -> str:
    pairs = results.eigenpairs
    if pairs is None:
        return ""
    names = ("value", "residual", "converged", "exact_curvature")
    rows = [
        (number(value, 6), number(residual, 2), "yes" if converged else "NO", number(exact, 6))
        for value, residual, converged, exact in zip(*(pairs[name].values for name in names))
    ]
    heads = ("eigenvalue λ", "residual ‖Hv − λv‖", "converged", "exact v'Hv, without products")
    said = (
        f"{int(pairs.attrs['n_products'])} products, and {int(pairs.attrs['n_check_products'])} to "
        "check for eigenvalues beyond these."
    )
    missed = float(pairs.attrs["missed_probability"])
    if missed < 1:
        said += f" Probability that one was missed: at most {missed:.1g}."
    note = f"<p class='note'>{said}</p>"
    return "<h4>Extreme eigenpairs</h4>" + text.table(heads, rows) + note


def _localisation(name: str, results: Results) -> Iterator[Panel]:
    dataset = results.localisation
    if dataset is None:
        return
    groups = {}
    for by in ("kind", "layer"):
        names, share, part = added(dataset, by)
        groups[by] = {"names": names, "largest": share[-1], "smallest": share[0], "part": part}
    yield Panel(
        f"{name}-localisation",
        "Where the curvature lives",
        "Shares of the squared entries of both extreme eigenvectors: what stands out above the grey "
        "bars, the shares of a direction spread evenly, carries the curvature.",
        "localisation",
        groups,
        _participation(dataset, results.eigenpairs),
        results.files.get("localisation", ()),
    )


def _participation(dataset: xr.Dataset, pairs: xr.Dataset | None) -> str:
    ratios = dataset["inverse_participation_ratio"].values
    values = np.full(len(ratios), np.nan) if pairs is None else pairs["value"].values
    rows = [
        (number(value, 4), number(ratio, 3), count(round(1 / float(ratio))))
        for value, ratio in zip(values, ratios, strict=True)
    ]
    return text.table(("eigenvalue λ", "Σv⁴/(Σv²)²", "parameters that carry it"), rows)


def _visibility(name: str, results: Results) -> Iterator[Panel]:
    sampled = results.visibility
    if sampled is None:
        return
    smallest = np.sort(principal_curvatures(sampled["projected_hessian"].values)[0])
    n = smallest.size
    bounds = np.array([wilson(k, n) for k in range(1, n + 1)])
    low, high = min(smallest[0], 0.0), max(np.quantile(smallest, 0.9), 0.0)
    margin = 0.1 * (high - low)
    x = np.linspace(low - margin, high + margin, 200)
    limit = distribution_smallest(x, float(sampled["trace"]), float(sampled["frobenius_norm"]))
    predicted = None
    if "spectrum_quantile" in sampled:
        predicted = {"x": sampled["spectrum_quantile"].values, "share": sampled["level"].values}
    yield Panel(
        f"{name}-visibility",
        "What random slices show",
        "Share of slices along two Gaussian directions whose smaller principal curvature κ₋ lies "
        "below a value: at zero it is the share that shows a direction of negative curvature. The "
        "directions are not normalised: curvatures are about N times those per unit length.",
        "visibility",
        {
            "smallest": smallest,
            "low": bounds[:, 0],
            "high": bounds[:, 1],
            "limit": {"x": x, "share": limit},
            "predicted": predicted,
            "r": float(sampled["r"]),
        },
        links=results.files.get("visibility", ()),
    )


def _settings(name: str, results: Results) -> Iterator[Panel]:
    if results.settings:
        rows = [(str(key), str(value)) for key, value in results.settings.items()]
        html = f"<details><summary>Show</summary>{text.table(None, rows)}</details>"
        yield Panel(f"{name}-settings", "Settings", "What made these numbers.", html=html)
