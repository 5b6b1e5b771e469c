"""Slices of the test loss, in the planes of the training loss."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing, slices

FIGURES = {
    "slices_of_test_loss": {
        "title": "Slices of the test loss",
        "category": "5. Slices",
        "reads": {"surfaces": "slices"},
        "caption": r"""
Test loss relative to that of the network, L − L(θ*), over the same slices as the training loss, one
row a network: Hessian directions are those of the training loss. Colours span ± the largest change
of each panel, written in its corner, and follow arcsinh. Black line: the loss of the network; cross:
the network; circle: lowest loss on the grid. Axes: distance in parameter space.""",
    },
}


def draw(surfaces: Mapping[str, drawing.Datasets], labels: drawing.Labels) -> Figure:
    """What `slices.draw` draws of the test loss.

    Args:
        surfaces: As there, by "{plane}_test".
    """
    return slices.draw(surfaces, labels, ("test",))
