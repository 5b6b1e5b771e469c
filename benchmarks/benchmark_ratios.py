"""Our time, products or error against other tools', and our cost in forward passes."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, DOUBLE

COLOURS = (drawing.VERMILION, drawing.GREEN, drawing.PURPLE, drawing.ORANGE, drawing.SKY)
DOTS = tuple(zip(COLOURS, "osD^v"))
FLOOR = "0.6"
TICKS = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))
INCHES_PER_LINE = 0.16


@drawing.styled
def draw(table: pd.DataFrame) -> Figure:
    """Ratios, ours to theirs, and our forward passes for each vector or point, logarithmic.

    One line for each work and network. A dot is a peer in a memory layout, filled where this layout
    is the peer's faster one, with the smallest and the largest ratio of the rounds. Bars are the
    goals; that on ratios is about the fastest peer. Grey bars are the floors: what convolutions and
    matrix products alone need.

    Args:
        table: Columns network, work, peer, ratio, ratio_low, ratio_high, peer_seconds, forwards,
            goal_ratio, goal_forwards, floor, with a row for each peer and layout; numbers that do
            not exist are NaN.
    """
    drawing.require(table)
    dots = {peer: DOTS[i % len(DOTS)] for i, peer in enumerate(table["peer"].unique())}
    lines = [
        (str(work), str(network), part)
        for work, of_work in table.groupby("work", sort=False)
        for network, part in of_work.groupby("network", sort=False)
    ]
    works = [work for work, _, _ in lines]
    figure = Figure(figsize=(DOUBLE, 1.1 + INCHES_PER_LINE * len(lines)), layout="constrained")
    ratios, forwards = axes = list(figure.subplots(1, 2, sharey=True, width_ratios=(3, 2)))
    for y, (_, _, part) in enumerate(lines):
        for peer, layouts in part.groupby("peer", sort=False):
            _draw_ratios(ratios, y, layouts, *dots[peer])
        ours = part.iloc[0]
        _draw_bar(ratios, ours["goal_ratio"], y, BLUE)
        _draw_bar(forwards, ours["floor"], y, FLOOR)
        _draw_bar(forwards, ours["goal_forwards"], y, BLUE)
        forwards.plot(ours["forwards"], y, "o", color="black", ms=3.5)
    ratios.axvline(1, color="black", lw=0.6)
    # The work at its first line only, the network at every line.
    names = [
        network if work in works[:y] else f"{work},  {network}"
        for y, (work, network, _) in enumerate(lines)
    ]
    ratios.set_yticks(range(len(names)), names)
    ratios.set_ylim(len(names) - 0.5, -0.5)
    order = list(dict.fromkeys(works))
    for ax, column in ((ratios, "ratio"), (forwards, "forwards")):
        for y, work in enumerate(works):
            if order.index(work) % 2:  # a grey ground behind every other work
                ax.axhspan(y - 0.5, y + 0.5, color="0.95", lw=0, zorder=0)
        ax.tick_params(axis="y", length=0)
        if table[column].gt(0).any():
            ax.set_xscale("log")
            low, high = ax.get_xlim()
            ax.set_xticks([tick for tick in TICKS if low <= tick <= high])
            ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
            ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    ratios.set_xlabel("ratio, ours / theirs")
    forwards.set_xlabel("ours, forward passes for each vector or point")
    drawing.title_panels(axes)
    handles = [
        drawing.line_handle(peer, color=colour, marker=marker, ms=3.5, ls="none")
        for peer, (colour, marker) in dots.items()
    ]
    handles += [
        drawing.line_handle(label, color=colour, marker="|", ms=7, mew=1.6, ls="none")
        for label, colour in (("goal", BLUE), ("floor", FLOOR))
    ]
    drawing.legend_below(figure, handles, 4)
    return figure


def _draw_ratios(ax: Axes, y: int, layouts: pd.DataFrame, colour: str, marker: str) -> None:
    """A dot with its range for every layout of a peer."""
    fastest = layouts["peer_seconds"].fillna(np.inf).idxmin()
    for index, dot in layouts[layouts["ratio"].notna()].iterrows():
        face = colour if index == fastest else "white"
        ax.plot([dot["ratio_low"], dot["ratio_high"]], [y, y], color=colour, lw=0.8, zorder=3)
        ax.plot(dot["ratio"], y, marker, color=colour, mfc=face, ms=3.5, zorder=4)


def _draw_bar(ax: Axes, x: float, y: int, colour: Any) -> None:
    if np.isfinite(x):
        ax.plot([x, x], [y - 0.4, y + 0.4], color=colour, lw=1.6, zorder=2)
