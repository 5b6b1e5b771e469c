"""The central picture: one saddle, unseen in a random slice and seen in the Hessian slice."""

import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import DOUBLE

FIGURES = {
    "saddle_slices": {
        "title": "One saddle, two views",
        "category": "3. Synthetic saddles",
        "reads": {"saddles": "saddles"},
        "caption": r"""
Loss of the synthetic saddle L = ½ θ\ :sub:`N` (Σ\ :sub:`i≤ñ` θ\ :sub:`i`\ ² − Σ\ :sub:`ñ<i<N`
θ\ :sub:`i`\ ²) around θ* = (0, …, 0, 1), relative to its value there. Its Hessian has ñ eigenvalues
+1, N − 1 − ñ eigenvalues −1 and one 0, so the trace is t = 2ñ − N + 1. **Above:** slices along two
random directions η, δ scaled to unit length: for negative, zero and positive t the same kind of
point looks like a maximum, almost flat, a minimum. **Below:** slices along two eigenvectors, one of
either sign: each of them is a saddle. Cross: θ*; black line: level of the saddle itself; axes:
distance in parameter space, α‖η‖ and β‖δ‖.""",
    },
}

ROWS = {"random": "random directions", "hessian": "Hessian directions"}


@drawing.styled
def draw(saddles: xr.Dataset) -> Figure:
    """Loss over random (above) and Hessian slices (below) of the synthetic saddles shown.

    Args:
        saddles: surface (shown, plane, alpha, beta), coordinates in parameter-space length;
            attribute n.
    """
    surface = saddles["surface"]
    shown = surface["shown"].values
    n = int(saddles.attrs["n"])
    side = min(1.0, (DOUBLE - 1.2) / shown.size - 0.2)
    size = (1.2 + (side + 0.2) * shown.size, 0.6 + 2 * (side + 0.4))
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(2, shown.size, squeeze=False, sharex=True, sharey=True)
    titles = []
    for row, (plane, name) in enumerate(ROWS.items()):
        losses = surface.sel(plane=plane).transpose("shown", "alpha", "beta").values
        centre = losses[:, losses.shape[1] // 2, losses.shape[2] // 2]
        losses = losses - centre[:, None, None]
        norm, levels = drawing.signed_levels(losses)
        for ax, n_positive, loss in zip(axes[row], shown, losses, strict=True):
            axis = surface["alpha"], surface["beta"]
            filled = drawing.signed_slice(ax, *axis, loss, norm, levels)
            drawing.mark(ax, 0, 0, "+")
            trace = drawing.signed(2 * (n_positive - n))
            titles.append(f"{name}\n" + rf"$\tilde{{n}}={n_positive}$, $t={trace}$")
        axes[row, 0].set_ylabel(r"$\beta\,\|\delta\|$")
        label = r"$L-L(\theta^{*}\,)$"
        drawing.loss_colorbar(figure, filled, list(axes[row]), label, aspect=16, pad=0.02)
    for ax in axes[-1]:
        ax.set_xlabel(r"$\alpha\,\|\eta\|$")
    drawing.title_panels(list(axes.flat), titles)
    return figure
