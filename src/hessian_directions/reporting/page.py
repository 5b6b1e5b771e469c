"""One self-contained page about one or several networks, from their results alone.

Whoever made the numbers, the workflow or `overview.analyze`, hands over data sets; what is missing is
left out. The page has no date and no path in it: the same results give the same text.
"""

import base64
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Exact curvature along a direction differs from its eigenvalue by the square of the residual over a
# gap, and by rounding, which the noise floor measures.
ROUNDINGS = 4.0


@dataclass(frozen=True)
class Results:
    """What is known about one network; every part may be missing.

    Attributes:
        label: Printed name.
        scores: Scalars loss, gradient_norm, theta_norm, n_parameters, n_images; train_… and
            test_loss and _accuracy; attribute self_test.
        eigenpairs: value, residual, converged, exact_curvature (pair), ascending; attributes
            n_products, n_check_products, missed_probability, noise_floor.
        trace: Scalars trace, trace_standard_error; where known n_samples, frobenius_norm,
            frobenius_standard_error.
        spectrum: nodes, weights (probe, node), n_parameters.
        slices: "{plane}_{split}" → loss (alpha, beta), plane random, hessian or filter, split
            train or test.
        lines: loss (direction, distance), slope, curvature (direction).
        visibility: projected_hessian (sample, row, column), trace, frobenius_norm, r,
            visibility_direct with _low and _high, visibility_formula; where it was predicted,
            spectrum_quantile (level), visibility_spectrum.
        localisation: share (pair, parameter), inverse_participation_ratio (pair).
        settings: What made these numbers: name → value.
    """

    label: str
    scores: xr.Dataset | None = None
    eigenpairs: xr.Dataset | None = None
    trace: xr.Dataset | None = None
    spectrum: xr.Dataset | None = None
    slices: Mapping[str, xr.Dataset] = field(default_factory=dict)
    lines: xr.Dataset | None = None
    visibility: xr.Dataset | None = None
    localisation: xr.Dataset | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One comparison of the sanity panel.

    Attributes:
        what: What is compared.
        found, expected: Two numbers that should agree.
        tolerance: The largest difference that rounding and residuals explain.
    """

    what: str
    found: float
    expected: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return abs(self.found - self.expected) <= self.tolerance


def render(
    networks: Mapping[str, Results],
    title: str = "Curvature of the loss",
    software: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML text: figures are inside, nothing is loaded from anywhere.

    Args:
        networks: Results by name, in the order of the page.
        title: Its heading.
        software: Versions to be stated: package → version.
    """
    several = len(networks) > 1
    body = [f"<h1>{escape(title)}</h1>"]
    if several:
        links = (f'<a href="#{escape(n)}">{escape(r.label)}</a>' for n, r in networks.items())
        body.append(f"<nav>{' · '.join(links)}</nav>")
    for name, results in networks.items():
        body.append(f'<section id="{escape(name)}">')
        if several or results.label != title:
            body.append(f"<h2>{escape(results.label)}</h2>")
        body += [*_network(name, results), "</section>"]
    body.append("<h2>How to read it</h2>" + _glossary())
    if software:
        versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in software.items())
        body.append(f"<footer>Made with {versions}.</footer>")
    return _DOCUMENT.format(title=escape(title), style=_STYLE, body="\n".join(body))


def checks(results: Results) -> list[Check]:
    """What has to agree if the pictures are right.

    The loss at the origin of every training slice is the loss of the network (those of test slices
    are each other's); the exact curvature along each eigenvector is its eigenvalue.
    """
    found = []
    for split in ("train", "test"):
        origins = {
            key.removesuffix(f"_{split}"): float(surface["loss"].sel(alpha=0.0, beta=0.0))
            for key, surface in results.slices.items()
            if key.endswith(f"_{split}")
        }
        expected, name = None, "the network"
        if split == "train" and results.scores is not None:
            expected = float(results.scores["loss"])
        elif len(origins) > 1:
            first = next(iter(origins))
            expected, name = origins.pop(first), f"the {_cased(first)} slice"
        if expected is not None:
            # Many points at once share their products, so that float32 rounds otherwise.
            tolerance = 1e-5 * abs(expected) + 1e-7
            found += [
                Check(
                    f"{_SPLITS[split]} loss at the origin of the {_cased(plane)} slice, against "
                    f"{name}",
                    origin,
                    expected,
                    tolerance,
                )
                for plane, origin in origins.items()
            ]
    pairs = results.eigenpairs
    if pairs is not None and "exact_curvature" in pairs:
        floor = float(pairs.attrs.get("noise_floor", 0.0))
        for i in range(pairs.sizes["pair"]):
            value, residual = float(pairs["value"][i]), float(pairs["residual"][i])
            found.append(
                Check(
                    f"exact curvature v'Hv along eigenvector {i + 1}, against its eigenvalue",
                    float(pairs["exact_curvature"][i]),
                    value,
                    residual + ROUNDINGS * floor,
                )
            )
    return found


# --- One network ----------------------------------------------------------------------------------


def _network(name: str, results: Results) -> list[str]:
    return [
        part
        for part in (
            _summary(results),
            _scores(results),
            _eigenpairs(results),
            _scalars(results),
            *_figures(name, results),
            _sanity(results),
            _settings(results),
        )
        if part
    ]


def _summary(results: Results) -> str:
    """The result first, in sentences."""
    said = []
    pairs, trace = results.eigenpairs, results.trace
    if pairs is not None:
        low, high = float(pairs["value"].min()), float(pairs["value"].max())
        floor = float(pairs.attrs.get("noise_floor", 0.0))
        if low < -floor and high > floor:
            said.append(
                f"The Hessian has curvature of both signs: its eigenvalues reach from "
                f"{_number(low)} to {_number(high)}."
            )
        else:
            said.append(f"The eigenvalues reach from {_number(low)} to {_number(high)}.")
        unconverged = int((~pairs["converged"].values.astype(bool)).sum())
        if unconverged:
            said.append(f"{unconverged} of {pairs.sizes['pair']} eigenpairs did not converge.")
    if trace is not None:
        said.append(f"Its trace is {_with_error(trace['trace'], trace['trace_standard_error'])}.")
    sampled = results.visibility
    if sampled is not None:
        share, n = float(sampled["visibility_direct"]), sampled.sizes["sample"]
        said.append(
            f"Of {n} random slices {round(share * n) or 'none'} show curvature of both signs "
            f"(95 % interval of the share: {100 * float(sampled['visibility_direct_low']):.2g} to "
            f"{100 * float(sampled['visibility_direct_high']):.2g} %)."
        )
    return f"<p class='summary'>{_raised(' '.join(said))}</p>" if said else ""


def _scores(results: Results) -> str:
    measured = results.scores
    if measured is None:
        return ""
    rows = [
        ("parameters N", _count(measured["n_parameters"])),
        ("samples the loss is a mean over", _count(measured["n_images"])),
        ("loss L", _number(measured["loss"])),
        ("length of the gradient ‖∇L‖", _number(measured["gradient_norm"])),
        ("length of the weights ‖θ‖", _number(measured["theta_norm"])),
    ]
    for split, said in _SPLITS.items():
        for score in ("loss", "accuracy"):
            value = float(measured.get(f"{split}_{score}", math.nan))
            if not math.isnan(value):
                rows.append((f"{said} {score}", _number(value)))
    test = measured.attrs.get("self_test")
    tested = f"<p class='note'>Self-test: {escape(str(test))}</p>" if test else ""
    return "<h3>Scores</h3>" + _table(None, rows) + tested


def _eigenpairs(results: Results) -> str:
    pairs = results.eigenpairs
    if pairs is None:
        return ""
    exact = pairs.get("exact_curvature")
    rows = []
    for i in range(pairs.sizes["pair"]):
        converged = bool(pairs["converged"][i])
        rows.append(
            (
                _number(pairs["value"][i], 6),
                _number(pairs["residual"][i], 2),
                "yes" if converged else "NO",
                "" if exact is None else _number(exact[i], 6),
            )
        )
    heads = ("eigenvalue λ", "residual ‖Hv − λv‖", "converged", "exact v'Hv, without products")
    said = [
        f"{int(pairs.attrs['n_products'])} products, and {int(pairs.attrs['n_check_products'])} to "
        "check for eigenvalues beyond these."
    ]
    missed = float(pairs.attrs["missed_probability"])
    if missed < 1:
        said.append(f"Probability that one was missed: at most {missed:.1g}.")
    note = f"<p class='note'>{escape(' '.join(said))}</p>"
    return "<h3>Extreme eigenpairs</h3>" + _table(heads, rows) + note


def _scalars(results: Results) -> str:
    trace, sampled, spectrum = results.trace, results.visibility, results.spectrum
    rows: list[tuple[str, str]] = []
    if trace is not None:
        text = _with_error(trace["trace"], trace["trace_standard_error"])
        if "n_samples" in trace:
            text += f" ({int(trace['n_samples'])} samples)"
        rows.append(("trace t = tr H", text))
        if results.scores is not None:
            mean = float(trace["trace"]) / float(results.scores["n_parameters"])
            rows.append(("mean curvature t/N", _number(mean)))
    for source in (sampled, trace, spectrum):
        if source is not None and "frobenius_norm" in source:
            error = source.get("frobenius_standard_error", math.nan)
            rows.append(("Frobenius norm f = ‖H‖_F", _with_error(source["frobenius_norm"], error)))
            break
    if sampled is not None:
        rows.append(("r = t/f", _number(sampled["r"])))
        interval = " to ".join(
            _number(sampled[f"visibility_direct{end}"], 2) for end in ("_low", "_high")
        )
        text = f"{_number(sampled['visibility_direct'], 2)} ({interval})"
        rows.append(("share of random slices with curvature of both signs", text))
        for kind, said in (("spectrum", "predicted by the spectrum"), ("formula", "exp(−r²/4)/√2")):
            if f"visibility_{kind}" in sampled:
                rows.append((f"… {said}", _number(sampled[f"visibility_{kind}"], 2)))
    return "<h3>Trace and visibility</h3>" + _table(None, rows) if rows else ""


def _figures(name: str, results: Results) -> list[str]:
    """The figures that there are data for, each with its caption."""
    from hessian_directions.reporting.figures import (
        lines,
        localisation,
        relative_slices,
        spectra,
        visibility_networks,
    )

    labels = {name: results.label}
    pairs = {} if results.eigenpairs is None else {name: results.eigenpairs}
    wanted: list[tuple[str, str, Any, Callable[[], Figure]]] = [
        (
            "Slices of the loss",
            _SLICES,
            results.slices or None,
            lambda: relative_slices.draw({name: results.slices}, labels),
        ),
        (
            "Lines",
            _LINES,
            results.lines,
            lambda: lines.draw({name: results.lines}, labels),  # type: ignore[dict-item]
        ),
        (
            "Spectrum",
            _SPECTRUM,
            results.spectrum,
            lambda: spectra.draw({name: results.spectrum}, pairs, labels),  # type: ignore[dict-item]
        ),
        (
            "Where the curvature lives",
            _LOCALISATION,
            results.localisation,
            lambda: localisation.draw({name: results.localisation}, labels),  # type: ignore[dict-item]
        ),
        (
            "What random slices show",
            _VISIBILITY,
            results.visibility,
            lambda: visibility_networks.draw({name: results.visibility}, labels),  # type: ignore[dict-item]
        ),
    ]
    after = {"Where the curvature lives": _participation(results)}
    return [
        f"<h3>{escape(heading)}</h3><figure>{picture(draw(), heading)}"
        f"<figcaption>{escape(caption)}</figcaption></figure>{after.get(heading, '')}"
        for heading, caption, data, draw in wanted
        if data is not None
    ]


def picture(figure: "Figure", description: str) -> str:
    """The figure as an `img` element that holds it as SVG."""
    from hessian_directions.reporting.figures.drawing import styled

    file = io.BytesIO()
    styled(figure.savefig)(file, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(file.getvalue()).decode()
    width = round(120 * float(figure.get_figwidth()))
    return (
        f'<img alt="{escape(description)}" style="width: {width}px" '
        f'src="data:image/svg+xml;base64,{data}">'
    )


def _participation(results: Results) -> str:
    dataset = results.localisation
    if dataset is None:
        return ""
    values = [math.nan] * dataset.sizes["pair"]
    if results.eigenpairs is not None:
        values = [float(value) for value in results.eigenpairs["value"]]
    rows = [
        (_number(value, 4), _number(ratio, 3), _number(1 / float(ratio), 3))
        for value, ratio in zip(values, dataset["inverse_participation_ratio"], strict=True)
    ]
    heads = ("eigenvalue λ", "Σv⁴/(Σv²)²", "parameters that carry it")
    return _table(heads, rows)


def _sanity(results: Results) -> str:
    compared = checks(results)
    if not compared:
        return ""
    rows = [
        (
            check.what,
            _number(check.found, 7),
            _number(check.expected, 7),
            f"{check.tolerance:.1e}",
            "agrees" if check.agrees else "DIFFERS",
        )
        for check in compared
    ]
    failed = sum(not check.agrees for check in compared)
    said = f"All {len(compared)} agree." if not failed else f"{failed} of {len(compared)} DIFFER."
    heads = ("what is compared", "found", "expected", "allowed", "")
    table = _table(heads, rows)
    return f"<h3>Is the plot right?</h3><p>{said}</p>{table}{_drawn_curvature(results)}"


def _drawn_curvature(results: Results) -> str:
    """Second differences of the drawn Hessian slice, which finite steps and kinks change."""
    surface = results.slices.get("hessian_train")
    if surface is None or min(surface["loss"].shape) < 3:
        return ""
    loss = surface["loss"].transpose("alpha", "beta")
    found = []
    for axis in ("alpha", "beta"):
        along = loss.sel({"beta" if axis == "alpha" else "alpha": 0.0})
        middle = int(np.flatnonzero(along[axis].values == 0)[0])
        low, centre, high = (float(along[middle + step]) for step in (-1, 0, 1))
        step = float(along[axis][middle + 1]) * float(attribute(surface, f"length_{axis}"))
        found.append((low - 2 * centre + high) / step**2)
    return (
        "<p class='note'>Between neighbouring points of the drawn Hessian slice second differences "
        f"of the loss are {_raised(_number(found[0]))} (horizontally) and "
        f"{_raised(_number(found[1]))} (vertically): finite steps, and kinks, which no exact "
        "derivative sees.</p>"
    )


def attribute(surface: xr.Dataset, name: str) -> Any:
    """An attribute of the loss, or of the data set that holds it."""
    return surface["loss"].attrs.get(name, surface.attrs.get(name))


def _settings(results: Results) -> str:
    if not results.settings:
        return ""
    rows = [(str(key), str(value)) for key, value in results.settings.items()]
    return "<h3>Settings</h3>" + _table(None, rows)


# --- Text -----------------------------------------------------------------------------------------

_SPLITS = {"train": "training", "test": "test"}

_SLICES = (
    "Loss relative to that of the network: red above it, blue below. Axes are distances in parameter "
    "space, and each has its own length. Hessian slice: horizontally along the direction of the "
    "largest eigenvalue, vertically along that of the smallest. Unless radii were set, an axis ends "
    "where half of its curvature times the square of the distance is half of the loss, so that its "
    "length is proportional to |λ|^(−1/2), or at the length of the weights."
)
_LINES = (
    "Loss along unit vectors. Dashed: parabola of the exact slope and curvature. A network is no "
    "critical point, so lines have slopes."
)
_SPECTRUM = (
    "Density of the eigenvalues by Lanczos quadrature: mean over random start vectors, and their "
    "range. The axis is linear near zero and logarithmic beyond."
)
_LOCALISATION = (
    "Shares of kinds of parameters and of layers in the squared entries of the two extreme "
    "eigenvectors, beside their share of the parameters."
)
_VISIBILITY = (
    "Share of random slices (Gaussian directions) whose smaller principal curvature lies below a "
    "value. At zero it is the share that shows a direction of negative curvature."
)


def _glossary() -> str:
    rows = [
        ("residual", "some eigenvalue lies within this distance of λ; the error of λ is smaller"),
        ("±", "standard error: two of three intervals that wide hold the true value"),
        ("exact v'Hv", "second derivative along v by Taylor mode in float64, not from products"),
        ("kinks", "of ReLU are seen by losses at finite distances, not by exact derivatives"),
    ]
    return _table(None, rows)


def _cased(plane: str) -> str:
    return {"hessian": "Hessian", "filter": "filter-normalised"}.get(plane, plane)


def _number(value: Any, digits: int = 4) -> str:
    number = float(value)
    if math.isnan(number):
        return "–"
    text = f"{number:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}·10^{int(exponent)}"
    return text.replace("-", "−")


def _count(value: Any) -> str:
    return f"{int(value):,}"


def _with_error(value: Any, error: Any) -> str:
    """Value ± standard error, both to the error's second digit."""
    value, error = float(value), float(error)
    if not error > 0 or not math.isfinite(error):
        return _number(value, 6) + (" (exact)" if error == 0 else "")
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 6 or abs(value) >= 1e6:
        return f"{_number(value)} ± {_number(error, 2)}"
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def _table(heads: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_raised(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = "" if heads is None else f"<thead>{row(heads, 'th')}</thead>"
    body = "".join(row(cells, "td") for cells in rows)
    kind = "facts" if heads is None else "numbers"
    return f'<table class="{kind}">{head}<tbody>{body}</tbody></table>'


def _raised(text: str) -> str:
    """Escaped, with raised exponents: 3·10^−4."""
    return re.sub(r"·10\^(−?\d+)", r"·10<sup>\1</sup>", escape(text))


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0.5rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 0.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 0.4rem; }
.summary { font-size: 1.05rem; }
.note, footer, figcaption { color: #555; font-size: 0.87rem; }
footer { margin-top: 2rem; border-top: 1px solid #ccc; padding-top: 0.5rem; }
table { border-collapse: collapse; margin: 0.4rem 0; }
th, td { padding: 0.15rem 1.2rem 0.15rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #999; font-weight: 600; }
.numbers td { font-variant-numeric: tabular-nums; }
.facts td:first-child { color: #555; }
figure { margin: 0.5rem 0 1rem; }
img { max-width: 100%; height: auto; }
"""

_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
