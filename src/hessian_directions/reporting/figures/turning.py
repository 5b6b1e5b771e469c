"""The plane that turns from a random slice to that of λ_max and λ_min: the saddle comes out."""

import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import DOUBLE
from hessian_directions.reporting.figures.slices import Panel, draw_rows

FIGURES = {
    "turning": {
        "title": "The plane turning from random to Hessian directions",
        "category": "5. Slices",
        "reads": {"planes": "turning"},
        "caption": r"""
Training loss relative to that of the network, L − L(θ*), over planes on the shortest way from that of
two random directions (0°) to that of the eigenvectors of λ\ :sub:`max` (α) and λ\ :sub:`min` (β) (90°),
one row per network. Colours span ± the largest change of each panel, written in a corner, and follow
arcsinh. Black line: the loss of the network; cross: the network; circle: lowest loss on the grid. Axes:
distance in parameter space; half-widths follow the curvature.""",
    },
}


def shown(count: int) -> list[int]:
    """Which of so many planes make a row: most changes near the random one."""
    return sorted({0, 1, 2, count // 2, count - 1})


@drawing.styled
def draw(planes: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """L − L(θ*) over a few of the planes of each network.

    Args:
        planes: Per network, loss (angle, alpha, beta) with alpha and beta in half-widths, and
            half_width (angle, axis).
    """
    rows = [
        [panel(turned.isel(angle=number)) for number in shown(turned.sizes["angle"])]
        for turned in planes.values()
    ]
    n_columns = max(map(len, rows))
    side = (DOUBLE - 1.2) / n_columns - 0.35
    names = [drawing.two_lines(labels.get(name, name)) for name in planes]
    return draw_rows(
        (DOUBLE, 0.65 + (side + 0.45) * len(planes)),
        [row + [None] * (n_columns - len(row)) for row in rows],
        names if len(planes) > 1 else [""],
    )


def panel(plane: xr.Dataset) -> Panel:
    """The picture of one plane."""
    loss = plane["loss"].transpose("alpha", "beta")
    change = (loss - loss.sel(alpha=0.0, beta=0.0)).values
    alpha, beta = (
        plane[axis].values * float(plane["half_width"].sel(axis=axis)) for axis in ("alpha", "beta")
    )
    return Panel(f"{float(plane['angle']):.0f}°", alpha, beta, change)
