"""Our time, products or error against other tools', and our cost in forward passes."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hessian_directions.figures.drawing import (
    BLUE,
    DOUBLE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    legend_below,
    line_handle,
    log_axis,
    require,
    styled,
    title_panels,
)

COLOURS = (VERMILION, GREEN, PURPLE, ORANGE, GREY)
MARKERS = ("o", "s", "D", "^", "v")
INCHES_PER_LINE = 0.15


@styled
def draw(table: pd.DataFrame) -> Figure:
    """Ratios, ours to theirs, on a logarithmic axis, and forward passes for each vector or point.

    One line for each work and network; a dot for each peer, filled in the memory layout in which it
    is faster, with the smallest and the largest ratio of the rounds. Bars are the goals, which are
    about the fastest peer: a dot at the left of its bar reaches it. Forward passes are ours, grey
    ticks what convolutions and matrix products alone need.

    Args:
        table: Columns network, work, peer, ratio, ratio_low, ratio_high, peer_seconds, forwards,
            goal_ratio, goal_forwards, floor; a row for each peer and layout, forwards NaN where
            they say nothing.
    """
    require(table)
    lines = list(table.groupby(["work", "network"], sort=False))
    lines.sort(key=lambda line: list(table["work"].unique()).index(line[0][0]))
    rows = np.arange(len(lines))
    figure = Figure(figsize=(DOUBLE, 0.9 + INCHES_PER_LINE * len(lines)), layout="constrained")
    axes = list(figure.subplots(1, 2, sharey=True, width_ratios=(3, 2)))
    peers = {
        peer: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, peer in enumerate(table["peer"].dropna().unique())
    }
    ratios, forwards = axes
    for row, (_, part) in zip(rows, lines, strict=True):
        for peer, layouts in part.groupby("peer", sort=False):
            colour, marker = peers[peer]
            fastest = layouts["peer_seconds"].idxmin()
            for dot in layouts[np.isfinite(layouts["ratio"])].itertuples():
                face = colour if dot.Index == fastest else "white"
                ratios.plot([dot.ratio_low, dot.ratio_high], [row, row], color=colour, lw=0.8)
                ratios.plot(dot.ratio, row, marker, color=colour, mfc=face, ms=4)
        ours = part.iloc[0]
        _bar(ratios, ours["goal_ratio"], row, BLUE)
        forwards.plot(ours["forwards"], row, "o", color=BLUE, ms=4)
        _bar(forwards, ours["goal_forwards"], row, BLUE)
        _bar(forwards, ours["floor"], row, "0.6")
    ratios.axvline(1, color="black", linewidth=0.6)
    ratios.set_yticks(rows, [_line_name(*name) for name, _ in lines])
    ratios.set_ylim(len(rows) - 0.5, -0.5)
    for ax, label in zip(axes, ("ours / theirs", "forward passes for each"), strict=True):
        for row, (name, _) in zip(rows, lines, strict=True):
            if list(table["work"].unique()).index(name[0]) % 2:
                ax.axhspan(row - 0.5, row + 0.5, color="0.95", lw=0)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(label)
        log_axis(ax, "x")
    title_panels(axes)
    handles = [
        line_handle(peer, color=colour, marker=marker, ms=4, ls="none")
        for peer, (colour, marker) in peers.items()
    ]
    handles.append(line_handle("goal", color=BLUE, marker="|", ms=8, mew=1.6, ls="none"))
    handles.append(line_handle("floor", color="0.6", marker="|", ms=8, mew=1.6, ls="none"))
    legend_below(figure, handles, 4)
    return figure


def _bar(ax, x, row, colour) -> None:
    if np.isfinite(x):
        ax.plot([x, x], [row - 0.42, row + 0.42], color=colour, lw=1.6)


def _line_name(work: str, network: str) -> str:
    return f"{work}: {network}"
