"""Spectral densities of the Hessian, with its extreme eigenvalues."""

import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import GREEN, LARGEST, SMALLEST, Array
from hessian_directions.spectral.density import broaden

FIGURES = {
    "spectra": {
        "title": "Spectral densities",
        "category": "6. Spectra and visibility",
        "reads": {"spectra": "spectrum", "eigenpairs": "eigenpairs"},
        "caption": r"""
Density of the Hessian's eigenvalues by stochastic Lanczos quadrature: mean and spread over random
probes, per unit of the axis. This is arcsinh(λ/λ₀), linear within λ₀ of zero and logarithmic beyond. Triangles: the
extreme eigenvalues found by Lanczos; dotted: the density that a single eigenvalue has.""",
    },
}

# Width of the Gaussians that broaden the quadrature, in units of arcsinh(λ/λ₀): about a tenth of a
# factor e in λ, fine enough to separate outliers and wide enough to join the nodes of the bulk.
WIDTH = 0.12


@drawing.styled
def draw(spectra: drawing.Datasets, eigenpairs: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Density of eigenvalues over an axis that is linear near zero and logarithmic beyond.

    The density is one per unit of arcsinh(λ/λ₀): equal areas hold equal shares of the eigenvalues.

    Args:
        spectra: Per network, nodes and weights (probe, node), n_parameters.
        eigenpairs: Per network, value (pair); its extreme values are marked.
    """
    figure, axes = drawing.panel_grid(len(spectra), 2, 1.3)
    titles = []
    for ax, (name, spectrum) in zip(axes, spectra.items(), strict=True):
        values = eigenpairs[name]["value"].values if name in eigenpairs else np.array([])
        scale = draw_spectrum(ax, spectrum, values)
        titles.append(rf"{labels.get(name, name)}, $\lambda_0=${_power(scale)}")
        ax.set_xlabel(r"eigenvalue $\lambda$")
    drawing.label_left(axes, "density")
    drawing.title_panels(axes, titles)
    handles = [
        drawing.line_handle("Lanczos quadrature", color=GREEN),
        drawing.line_handle(r"$\lambda_{\max}$", color=LARGEST, marker="v", ls="", ms=5),
        drawing.line_handle(r"$\lambda_{\min}$", color=SMALLEST, marker="v", ls="", ms=5),
        drawing.line_handle("one eigenvalue", color="0.4", ls=":", lw=0.8),
    ]
    drawing.legend_below(figure, handles, 4)
    return figure


def draw_spectrum(ax: Axes, spectrum: xr.Dataset, values: Array) -> float:
    """Draw one density, mark the smallest and the largest of `values`, and return λ₀."""
    nodes, weights = spectrum["nodes"].values, spectrum["weights"].values
    reach = np.concatenate([nodes[np.isfinite(nodes)], values])
    # The bulk is about as wide as the negative end; without one, three decades below the largest.
    bulk = -reach.min() if reach.min() < 0 else 1e-2 * (reach.max() or 1.0)
    scale = float(10.0 ** (np.floor(np.log10(bulk)) - 1))
    low, high = np.arcsinh(reach.min() / scale), np.arcsinh(reach.max() / scale)
    grid = np.linspace(min(low, 0) - 6 * WIDTH, max(high, 0) + 6 * WIDTH, 800)
    densities = np.stack(
        [
            broaden(np.arcsinh(node[kept] / scale), weight[kept], grid, WIDTH)
            for node, weight in zip(nodes, weights, strict=True)
            if (kept := np.isfinite(node)).any()
        ]
    )
    x = scale * np.sinh(grid)
    one = 1 / (float(spectrum["n_parameters"]) * WIDTH * np.sqrt(2 * np.pi))
    floor = one / 30
    band = np.maximum([densities.min(axis=0), densities.max(axis=0)], floor)
    ax.fill_between(x, *band, color=GREEN, alpha=0.3, lw=0)
    mean = densities.mean(axis=0)
    ax.plot(x, np.where(mean > floor, mean, np.nan), color=GREEN)
    ax.axhline(one, color="0.4", linestyle=":", linewidth=0.8)
    ax.set_ylim(floor, 4 * densities.max())
    drawing.log_axis(ax, "y")
    top = ax.get_xaxis_transform()
    ends = ((values.min(), SMALLEST), (values.max(), LARGEST)) if values.size else ()
    for value, colour in ends:
        ax.axvline(value, color=colour, linewidth=0.8)
        ax.plot(value, 0.95, "v", color=colour, ms=5, transform=top, zorder=5)
    ax.set_xscale("asinh", linear_width=scale)
    ax.set_xlim(x[0], x[-1])
    # 0 and the first decade lie close together: without ±λ₀
    decades = [scale * 10**exponent for exponent in range(1, 10)]
    ticks = sorted({0.0, *decades, *(-t for t in decades)})
    ticks = [tick for tick in ticks if x[0] <= tick <= x[-1]]
    ax.set_xticks(ticks, [_power(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    return scale


def _power(value: float) -> str:
    if value == 0:
        return "0"
    exponent = round(np.log10(abs(value)))
    sign = "−" if value < 0 else ""
    return sign + {0: "1", 1: "10"}.get(exponent, rf"$10^{{{exponent}}}$")
