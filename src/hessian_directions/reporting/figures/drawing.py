"""What the figures share: the style, panels, contour slices, markers, and saving without dates.

Figures are made without pyplot, so there is no global state and no display is asked for.
"""

import string
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from hessian_directions.errors import ArtifactError

Array = NDArray[np.float64]
Datasets = Mapping[str, xr.Dataset]  # by network
Labels = Mapping[str, str]  # printed names, by network
P = ParamSpec("P")
T = TypeVar("T")

STYLE = Path(__file__).with_name("style.mplstyle")

# Widths of a single and a double column of J. Stat. Mech., inches.
SINGLE = 3.4
DOUBLE = 7.0

# One colour and one marker for each thing, the same in every figure (Okabe and Ito's colours).
BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREY = "#5D5D5D"
LARGEST, SMALLEST, RANDOM = VERMILION, BLUE, GREY
# Of Tol's colours, for an eighth.
WINE = "#882255"
# For curves without a colour of their own, in this order.
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)
# Colour and marker of networks that share a panel, in their order.
LOOKS = tuple(zip((*COLOURS, SKY), "osD^vP"))

# Printed name, colour, marker and line width of each trace estimator, in the order of the legends.
# The first four may share their directions and then agree to many digits: wide lines lie below
# narrow ones, so that all of them are seen.
ESTIMATORS = {
    "finite_difference": ("loss differences", VERMILION, "o", 2.2),
    "finite_difference_corrected": ("loss differences, kinks corrected", WINE, "*", 1.1),
    "quadratic_fit": ("quadratic fit", ORANGE, "v", 1.6),
    "directional": ("directional derivative", SKY, "s", 1.1),
    "hutchinson": ("Hutchinson, Gaussian", BLUE, "D", 0.6),
    "hutchinson_rademacher": ("Hutchinson, Rademacher", GREEN, "^", 0.9),
    "deflated": ("deflated", PURPLE, "P", 0.9),
    "hutch_plus_plus": ("Hutch++", GREY, "X", 0.9),
}

# Printed symbol of each measure of curvature or flatness.
MEASURES = {
    "trace": r"$t$",
    "mean_curvature": r"$t/N$",
    "largest": r"$\lambda_{\max}$",
    "smallest": r"$\lambda_{\min}$",
    "frobenius_norm": r"$\|H\|_F$",
    "trace_scaled": r"$t\,\|\theta\|^2/N$",
    "largest_scaled": r"$\lambda_{\max}\|\theta\|^2$",
    "gradient_norm": r"$\|\nabla L\|$",
    "theta_norm": r"$\|\theta\|$",
    "smallest_magnitude": r"$|\lambda_{\min}|$",
    "adaptive_trace": r"$\mathrm{tr}\,THT$",
    "adaptive_largest": r"$\lambda_{\max}(THT)$",
    "relative_flatness": "relative flatness",
    "relative_flatness_output": "relative flatness, last layer",
    "m_sharpness": r"$m$-sharpness",
    "distance": r"$\|\theta-\theta_0\|$",
}
# Of measures that are named with their radius: worst_increase_0.1.
MEASURES_AT_RADIUS = {
    "average_increase": r"$\langle\Delta L\rangle_{%s}$",
    "worst_increase": r"$\Delta L^{\max}_{%s}$",
}
GENERALIZATIONS = {
    "gap_loss": "loss gap (test − train)",
    "gap_accuracy": "accuracy gap (train − test)",
}


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run `function` under the figures' style, whatever the user's matplotlibrc says."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.style.context(STYLE, after_reset=True):
            return function(*args, **kwargs)

    return wrapper


def measure_symbol(name: str) -> str:
    """Printed symbol of a measure of flatness."""
    kind, _, radius = name.rpartition("_")
    if kind in MEASURES_AT_RADIUS:
        return MEASURES_AT_RADIUS[kind] % radius
    return MEASURES.get(name, name)


def two_lines(label: str) -> str:
    """A long label, broken after the comma or, without one, at the space that is nearest to its middle."""
    spaces = [i for i, letter in enumerate(label) if letter == " "]
    if len(label) <= 18 or not spaces:
        return label
    spaces = [i for i in spaces if label[i - 1] == ","] or spaces
    middle = min(spaces, key=lambda i: abs(i - len(label) / 2))
    return f"{label[:middle]}\n{label[middle + 1 :]}"


def require(datasets: Sized) -> None:
    """Raise `ArtifactError` where there is nothing to draw."""
    if len(datasets) == 0:
        raise ArtifactError("There is nothing to draw: no network or case has this analysis.")


@styled
def sentence(text: str) -> Figure:
    """A figure that says why there is none."""
    figure = Figure(figsize=(5.0, 1.5))
    figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    return figure


def panel_grid(
    n_panels: int,
    n_columns: int,
    panel_height: float,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with `n_panels` axes in rows of at most `n_columns`; heights in inches.

    One panel alone takes a single column, four stand two by two; the places after the last panel
    stay empty. Raises `ArtifactError` for no panels.
    """
    require(range(n_panels))
    n_columns = 2 if n_panels == 4 and n_columns == 3 else min(n_panels, n_columns)
    n_rows = -(-n_panels // n_columns)
    size = (SINGLE, max(panel_height, 2.7)) if n_panels == 1 else (DOUBLE, panel_height * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False, **subplots).flat)
    for ax in axes[n_panels:]:
        ax.remove()
    return figure, axes[:n_panels]


def title_panels(axes: Sequence[Axes], titles: Sequence[str] | None = None) -> None:
    """Write "(a) title" at the left above each panel; a panel that stands alone has no letter."""
    for index, ax in enumerate(axes):
        letter = f"({panel_letter(index)})" if len(axes) > 1 else ""
        ax.set_title(f"{letter} {titles[index] if titles else ''}".strip())


def label_left(axes: Iterable[Axes], text: str) -> None:
    """Label the y axis of the first panel of each row."""
    for ax in axes:
        place = ax.get_subplotspec()
        if place is not None and place.is_first_col():
            ax.set_ylabel(text)


def panel_letter(index: int) -> str:
    """a … z, aa, ab …"""
    first, last = divmod(index, 26)
    return (string.ascii_lowercase[first - 1] if first else "") + string.ascii_lowercase[last]


def legend_below(figure: Figure, handles: Sequence[Any], n_columns: int) -> None:
    """One legend for all panels, under them; a single column has room for two entries a line."""
    if figure.get_figwidth() <= SINGLE:
        n_columns = min(n_columns, 2)
    figure.legend(handles=list(handles), loc="outside lower center", ncols=n_columns)


def line_handle(label: str, **properties: Any) -> Line2D:
    return Line2D([], [], label=label, **properties)


def errors(centre: Any, low: Any, high: Any) -> Array:
    """Lengths (2, n) of the two arms of an interval; never negative, NaN where a bound is NaN."""
    return np.maximum(np.stack([np.asarray(centre) - low, np.asarray(high) - centre]), 0.0)


def log_axis(ax: Axes, which: str) -> None:
    """Make the axes named, x, y or xy, logarithmic; call it when the data are drawn.

    Decades alone are labelled; where fewer than two are in view, also 3 times them, or 2 and 5 times.
    """
    for name in which:
        ax.set(**{f"{name}scale": "log"})
        axis = ax.xaxis if name == "x" else ax.yaxis
        low, high = sorted(axis.get_view_interval())
        decades = np.floor(np.log10(high)) - np.ceil(np.log10(low)) + 1
        between = (3.0,) if high > 10 * low else (2.0, 5.0)
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, *(() if decades >= 2 else between))))
        axis.set_major_formatter(every_tick())
        axis.set_minor_formatter(ticker.NullFormatter())


def every_tick() -> ticker.Formatter:
    """Labels for all ticks of a logarithmic axis: 10³, 2×10³."""
    return ticker.LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf))


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign, as mathtext; zero has none."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"


def power_of_ten(value: float, digits: int = 2) -> str:
    """3×10⁻⁴ as mathtext, without its dollars."""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    factor = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\times"
    return rf"{factor}10^{{{int(exponent)}}}"


# Slices

# Bands of colour of a loss.
N_LEVELS = 20


def loss_levels(loss: Array) -> tuple[Normalize, Array]:
    """Colour norm and contour levels of a loss.

    Logarithmic where the finite losses are positive and span more than a factor of 30, else linear.
    """
    finite = loss[np.isfinite(loss)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low > 0 and high > 30 * low:
        levels = np.geomspace(low * (1 - 1e-9), high * (1 + 1e-9), N_LEVELS + 1)
        return LogNorm(levels[0], levels[-1]), levels
    margin = 1e-9 * max(high - low, abs(high), 1e-300)
    if high - low <= margin:  # a constant: any range around it will do
        margin = 0.5 * abs(high) or 1.0
    levels = np.linspace(low - margin, high + margin, N_LEVELS + 1)
    return Normalize(levels[0], levels[-1]), levels


def signed_levels(change: Array) -> tuple[Normalize, Array]:
    """Colour norm and levels symmetric about zero, for losses relative to the origin's."""
    bound = float(np.abs(change[np.isfinite(change)]).max(initial=0.0)) * (1 + 1e-9) or 1.0
    levels = np.linspace(-bound, bound, 17)  # one of them zero
    return Normalize(-bound, bound), levels


def diverging_map() -> Colormap:
    """Blue below zero, red above: perceptually uniform on both sides, safe for the colour-blind."""
    import seaborn  # which imports much, for one figure

    return seaborn.color_palette("vlag", as_cmap=True)


def contour_slice(
    ax: Axes,
    alpha: Any,
    beta: Any,
    loss: Any,
    norm: Normalize,
    levels: Array,
    cmap: str | Colormap = "viridis",
    line_colour: str = "white",
) -> ContourSet:
    """Fill and line contours of `loss` (alpha, beta) on axes in parameter-space length."""
    loss = np.ma.masked_invalid(np.asarray(loss, dtype=float).T)  # (beta, alpha): rows are y
    ax.set_facecolor("0.85")  # where the loss is not finite
    filled = ax.contourf(alpha, beta, loss, levels=levels, norm=norm, cmap=cmap)
    filled.set_edgecolor("face")  # no hairlines between bands in PDF viewers
    filled.set_linewidth(0.2)
    if loss.count() and loss.min() < loss.max():
        thin: dict[str, Any] = {"linewidths": 0.3, "linestyles": "solid", "alpha": 0.7}
        ax.contour(alpha, beta, loss, levels=levels, colors=line_colour, **thin)
    # an image of a plane: same length, same distance on paper
    ax.set_aspect("equal")
    ax.tick_params(direction="out", top=False, right=False)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10], symmetric=True))
    return filled


def loss_slice(ax: Axes, loss: xr.DataArray) -> ContourSet:
    """Contours of a loss over its two coordinates, with levels of its own."""
    norm, levels = loss_levels(loss.values)
    alpha, beta = (loss[name].values for name in loss.dims)
    return contour_slice(ax, alpha, beta, loss, norm, levels)


def signed_slice(
    ax: Axes, alpha: Any, beta: Any, change: Array, norm: Normalize, levels: Array
) -> ContourSet:
    """Contours of L − L(θ*), red above zero and blue below, with a black line at zero."""
    filled = contour_slice(ax, alpha, beta, change, norm, levels, diverging_map(), "0.3")
    if np.nanmin(change, initial=0.0) < 0 < np.nanmax(change, initial=0.0):
        ax.contour(alpha, beta, change.T, levels=[0.0], colors="black", linewidths=0.9)
    return filled


def plot_surface(
    ax: Any, alpha: Array, beta: Array, height: Array, colours: Array, **look: Any
) -> None:
    """A surface (alpha, beta) in colours of its own, from the side, on axes without panes."""
    look |= {"rcount": 60, "ccount": 60, "linewidth": 0.15, "shade": False, "rasterized": True}
    ax.plot_surface(alpha, beta, height, facecolors=colours, **look)
    ax.view_init(elev=24, azim=-58)
    ax.tick_params(pad=-2)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_major_locator(ticker.MaxNLocator(4))
        axis.set_pane_color((1.0, 1.0, 1.0, 0.0))


def mark(ax: Axes, x: float, y: float, marker: str, colour: str = "white", size: float = 5) -> None:
    """A marker with a dark rim, visible on every colour of the maps; a circle is a ring."""
    if marker == "o":  # another mark may lie inside
        ring: dict[str, Any] = {"mfc": "none", "ms": size, "clip_on": False, "zorder": 4}
        ax.plot(x, y, "o", mec="black", mew=2.4, **ring)
        ax.plot(x, y, "o", mec=colour, mew=1.2, **ring)
    elif marker in "+x":  # lines have no rim: a narrow one on a wide one
        ax.plot(x, y, marker, color="black", ms=size + 0.5, mew=2.2, clip_on=False, zorder=5)
        ax.plot(x, y, marker, color=colour, ms=size - 0.5, mew=1.0, clip_on=False, zorder=5)
    else:
        ax.plot(x, y, marker, mfc=colour, mec="black", ms=size, mew=0.6, clip_on=False, zorder=4)


def lowest_point(alpha: Array, beta: Array, loss: Array) -> tuple[float, float]:
    """Coordinates of the smallest finite loss of a surface (alpha, beta)."""
    row, column = np.unravel_index(np.nanargmin(loss), loss.shape)
    return float(alpha[row]), float(beta[column])


def loss_colorbar(
    figure: Figure | SubFigure,
    filled: ContourSet,
    axes: Sequence[Axes],
    label: str,
    **properties: Any,
) -> Colorbar:
    """A colour bar with few, round ticks."""
    low, high = (float(level) for level in np.asarray(filled.levels)[[0, -1]])
    if isinstance(filled.norm, LogNorm):
        ticks: Any = ticker.LogLocator(numticks=6).tick_values(low, high)
        if np.sum((ticks >= low) & (ticks <= high)) < 2:
            ticks = ticker.LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(low, high)
        formatter = every_tick()
    else:
        ticks = ticker.MaxNLocator(5).tick_values(low, high)
        formatter = ticker.ScalarFormatter(useMathText=True)
    properties |= {"ticks": [tick for tick in ticks if low <= tick <= high], "format": formatter}
    bar = figure.colorbar(filled, ax=list(axes), label=label, **properties)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    bar.ax.minorticks_off()
    bar.ax.tick_params(direction="out", left=False, right=True)
    bar.outline.set_linewidth(0.6)
    return bar


# Files


@styled
def save(figure: Figure, *paths: str | Path) -> None:
    """Write the figure to each path, in the format of its suffix, without dates and versions.

    The same figure and library versions give the same bytes.
    """
    absent = {
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        ".svg": {"Date": None, "Creator": None},
        ".png": {"Software": None},
    }
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=absent[path.suffix])


def save_animation(
    path: str | Path, figure: Figure, draw_frame: Callable[[int], None], n_frames: int
) -> None:
    """Write a GIF of `n_frames` pictures that `draw_frame(i)` makes of the figure, in five seconds.

    All frames share one palette of 64 colours, taken from the last one, which stays for two seconds more.
    """
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(110)

    def picture(index: int) -> Image.Image:
        draw_frame(index)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    palette = picture(n_frames - 1).quantize(64)
    figure.set_layout_engine("none")  # what was laid out once does not move
    frames = [
        picture(index).quantize(palette=palette, dither=Image.Dither.NONE)
        for index in range(n_frames)
    ]
    durations = [max(20, round(5000 / n_frames))] * n_frames  # ms
    durations[-1] += 2000
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
