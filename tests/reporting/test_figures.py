"""Figures draw from artifacts alone: the same bytes twice, no torch, no overlapping text."""

import importlib
import inspect
import itertools
import os
import pickle
import pkgutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import fabricate
import matplotlib
import numpy as np
import pytest
import xarray as xr
from fabricate import made
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from hessian_directions.analyses import registry
from hessian_directions.errors import ArtifactError
from hessian_directions.geometry.principal_curvatures import (
    distribution_smallest,
    principal_curvatures,
)
from hessian_directions.reporting import figures
from hessian_directions.reporting.figures import (
    cost_scaling,
    drawing,
    lines,
    localisation,
    slices,
    trace_convergence,
    trace_cost,
)
from hessian_directions.reporting.report.results import Results
from hessian_directions.statistics.proportions import wilson

LABELS = {
    "approximator2": "Approximator, 3 hidden layers",
    "resnet": "ResNet-8",
    "resnet8_plain": "ResNet-8 without skip connections",
    "densenet": "DenseNet",
    "mlp": "MLP (GELU)",
}

# figure: what draws it, and what is said of it
DECLARED = {
    figure: (module.animate if says.get("animation") else module.draw, says)
    for found in pkgutil.iter_modules(figures.__path__)
    for module in [importlib.import_module(f"{figures.__name__}.{found.name}")]
    for figure, says in getattr(module, "FIGURES", {}).items()
}
# What is no artifact of one analysis and one network.
OTHER_EVIDENCE = {
    "slices": fabricate.slices,
    "image_counts": fabricate.image_counts,
    "history": fabricate.history,
    "trace_estimators_record": lambda *of: fabricate.seconds(made("trace_estimators", *of)),
    "passes_record": lambda kind, seed: fabricate.passes(10 ** (3 + 2 * seed + (kind == "smooth"))),
}
ANIMATIONS = [name for name, (draws, _) in DECLARED.items() if draws.__name__ == "animate"]
FIGURES = [*(figure for figure in DECLARED if figure not in ANIMATIONS), "overview"]
OF_NETWORKS = [
    figure
    for figure, (_, says) in DECLARED.items()
    if not set(says["reads"].values()) <= {*registry.OF_PROFILES}
]
OTHERS = [figure for figure in FIGURES if figure not in OF_NETWORKS]


def each(read, n, kinds=("relu", "smooth")):
    """What is read of each of the first n networks."""
    make = OTHER_EVIDENCE.get(read, partial(made, read))
    return {name: make(kinds[i % len(kinds)], i // 2) for i, name in enumerate(list(LABELS)[:n])}


def arguments(figure, n=1):
    """What the workflow gives to a figure, of n networks."""
    draws, says = DECLARED[figure]
    kinds = ["regression"] if says.get("networks") == "regression" else ["relu", "smooth"]
    given = {
        name: made(read) if read in registry.OF_PROFILES else each(read, n, kinds)
        for name, read in says["reads"].items()
    }
    labels = {"labels": LABELS} if "labels" in inspect.signature(draws).parameters else {}
    return given | labels | says.get("arguments", {})


def module(name):
    return importlib.import_module(f"hessian_directions.reporting.figures.{name}")


def draw(figure, n=1):
    if figure == "overview":
        return module(figure).draw(fabricate.results())
    return DECLARED[figure][0](**arguments(figure, n))


def saved(figure, path):
    drawing.save(figure, path)
    return path.read_bytes()


def test_every_module_is_tested():
    modules = {found.name for found in pkgutil.iter_modules(figures.__path__)} - {"drawing"}
    declared = {draws.__module__.rpartition(".")[2] for draws, _ in DECLARED.values()}
    assert modules == declared | {"overview"}


@pytest.mark.parametrize("name", FIGURES)
def test_two_draws_are_equal_to_the_byte(name, tmp_path):
    def svg(file):  # the format, and the layout, that take least time
        figure = draw(name)
        figure.set_layout_engine("none")
        return saved(figure, tmp_path / file)

    first = svg("first.svg")
    # what a user's own settings say does not count
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5, "svg.hashsalt": "mine"}):
        assert svg("second.svg") == first


def test_files_are_equal_to_the_byte_and_carry_no_date(tmp_path):
    for run in "12":
        figure = draw("classifier_slices")
        drawing.save(figure, tmp_path / f"{run}.pdf", tmp_path / f"{run}.png")
    for suffix in (".pdf", ".png"):
        first, second = ((tmp_path / f"{run}{suffix}").read_bytes() for run in "12")
        assert first == second
        for word in (b"Date", b"Software", b"Creator", b"Matplotlib"):
            assert word not in first
    with Image.open(tmp_path / "1.png") as picture:
        assert picture.width == drawing.DOUBLE * 200


SCRIPT = """
import importlib, pickle, pkgutil, sys
from hessian_directions.reporting import figures
from hessian_directions.reporting.report import document
for found in pkgutil.iter_modules(figures.__path__):
    importlib.import_module("hessian_directions.reporting.figures." + found.name)
from hessian_directions.reporting.figures import drawing, rescaling
population, results = pickle.load(sys.stdin.buffer)
drawing.save(rescaling.draw(population), sys.argv[1])
document.render({"mine": results}, "Title")
print("torch" in sys.modules)
"""


def test_another_process_draws_the_same_bytes_without_torch(tmp_path):
    """An interpreter with another hash seed; it renders the report, too."""
    environment = {"PYTHONPATH": str(Path(figures.__path__[0]).parents[2]), "PYTHONHASHSEED": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "there.pdf")],
        input=pickle.dumps((made("population"), fabricate.results())),
        env=os.environ | environment,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "there.pdf").read_bytes() == saved(draw("rescaling"), tmp_path / "here.pdf")
    assert result.stdout.strip() == b"False"


# Overlapping text


def text_boxes(figure: Figure):
    """What is written in a figure, with its box in pixels, apart from turned and 3-D text."""
    figure.set_dpi(200)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    ticks = {}  # tick labels outside the axis are there, but not drawn
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                inside = low - 1e-9 * abs(low) <= tick.get_loc() <= high + 1e-9 * abs(high)
                ticks |= dict.fromkeys((tick.label1, tick.label2), inside)
    for text in figure.findobj(Text):
        if not text.get_text().strip() or not text.get_visible() or not ticks.get(text, True):
            continue
        if text.get_rotation() % 90 == 0:
            yield text.get_text(), text.get_window_extent(renderer)


SMALLEST = 7  # points; the paper prints figures at 86 % or more
# in three dimensions text turns with the axes
FLAT = [name for name in OF_NETWORKS if name not in ("surface_3d", *ANIMATIONS)]


@pytest.mark.parametrize(
    ("name", "n"), [*itertools.product(FLAT, (1, 3)), *((name, 0) for name in OTHERS)]
)
def test_text_is_large_enough_and_neither_overlaps_nor_leaves_the_page(name, n):
    with matplotlib.style.context(drawing.STYLE, after_reset=True):
        figure = draw(name, n)
        boxes = list(text_boxes(figure))
    written = [text for text in figure.findobj(Text) if text.get_text().strip()]
    assert min(text.get_fontsize() for text in written) >= SMALLEST
    page = figure.bbox
    slack = 2.0  # pixels of 200 to the inch
    for text, box in boxes:
        assert box.x0 > page.x0 - slack, text
        assert box.y0 > page.y0 - slack, text
        assert box.x1 < page.x1 + slack, text
        assert box.y1 < page.y1 + slack, text
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        apart = (
            a.x1 < b.x0 + slack or b.x1 < a.x0 + slack or a.y1 < b.y0 + slack or b.y1 < a.y0 + slack
        )
        assert apart, f"{first!r} overlaps {second!r}"


# Edge cases


def test_nothing_to_draw_is_said():
    with pytest.raises(ArtifactError, match="nothing to draw"):
        lines.draw({}, LABELS)
    with pytest.raises(ArtifactError, match="nothing to draw"):
        module("overview").draw(Results("Alone"))


def test_labels_are_optional_per_network():
    figure = lines.draw({"a network of mine": made("lines")}, {})
    assert figure.axes[0].get_title("left") == "a network of mine"


def test_accuracy_stands_below_the_loss_of_classifiers():
    figure = lines.draw({"mlp": made("lines"), "fit": made("lines", "regression")}, LABELS)
    of_mlp, of_fit, below = figure.axes
    assert below.get_ylabel() == "accuracy"
    assert below.get_shared_x_axes().joined(below, of_mlp)
    drawn = {tuple(line.get_ydata()) for line in below.lines}
    assert drawn == {tuple(values) for values in made("lines")["accuracy"].values}
    assert of_fit.get_xlabel() == below.get_xlabel() != of_mlp.get_xlabel()


def test_nan_padding_and_short_estimators(tmp_path):
    dataset = made("trace_estimators", n_samples=12)
    dataset["samples"][2] = np.nan  # nothing
    dataset["samples"][3, 1:] = np.nan  # one sample
    dataset["n_samples"][3] = 1
    for figure in (
        trace_convergence.draw({"mlp": dataset}, LABELS, made("saddle_traces")),
        trace_cost.draw({"mlp": dataset}, LABELS, {}),
    ):
        assert saved(figure, tmp_path / "figure.pdf")


@pytest.mark.parametrize("name", ["classifier_slices", "slices_of_test_loss", "surface_3d"])
def test_losses_that_are_not_finite(name, tmp_path):
    surfaces = fabricate.slices()
    surfaces["hessian_train"]["loss"][0, :3] = np.inf
    surfaces["random_train"]["loss"][-1, -1] = np.nan
    del surfaces["random_test"]
    figure = DECLARED[name][0](**arguments(name) | {"surfaces": {"mlp": surfaces}})
    assert saved(figure, tmp_path / "figure.pdf")


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_surface(value, tmp_path):
    surfaces = {"random_train": fabricate.slices()["random_train"] * 0 + value}
    surfaces["random_train"]["loss"].attrs |= {"length_alpha": 3.0, "length_beta": 4.0}
    assert saved(module("slices").draw({"mlp": surfaces}, LABELS), tmp_path / "figure.pdf")


def test_no_saddle_lies_outside_the_axes(tmp_path):
    """However far from the limit its visibility is, and where no slice showed any of them."""
    points = made("critical_points")
    far, unseen = points.copy(deep=True), points.copy(deep=True)
    far["visibility_sampled"][:] = 1e4 * points["visibility_formula"]
    unseen["visibility_sampled"][:] = 0.0
    for those in (points, far, unseen):
        figure = module("critical_points").draw(made("saddles"), those)
        assert saved(figure, tmp_path / "figure.pdf")
        ax = figure.axes[2]
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        for line in (line for line in ax.lines if line.get_linestyle() == "None"):
            x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            assert ((left < x) & (x < right) & (low < y) & (y < high)).all()


def test_share_of_sampled_slices_rises_by_one_in_n_and_has_an_interval_where_none_lies():
    dataset = made("visibility")
    ax = module("visibility_networks").draw({"mlp": dataset}, LABELS).axes[0]
    sampled = ax.lines[0]
    smallest = principal_curvatures(dataset["projected_hessian"].values)[0]
    np.testing.assert_allclose(sampled.get_xdata(), np.sort(smallest))
    n = smallest.size
    np.testing.assert_allclose(sampled.get_ydata(), np.arange(1, n + 1) / n)
    band = ax.collections[0].get_paths()[0].vertices
    left = band[band[:, 0] < smallest.min()]
    assert left[:, 1].max() == pytest.approx(wilson(0, n)[1])
    between = np.sort(smallest)[[19, 20]]
    inside = band[(band[:, 0] >= between[0]) & (band[:, 0] <= between[1])]
    for bound in wilson(20, n):
        assert np.isclose(inside[:, 1], bound).any()
    assert ax.get_xlim()[0] < 0


def test_distribution_of_slices_is_drawn_beside_the_spectrum_s_and_the_limit_s():
    dataset = made("visibility")
    sampled, spectrum, limit, _ = (
        module("visibility_networks").draw({"mlp": dataset}, LABELS).axes[0].lines
    )
    np.testing.assert_array_equal(spectrum.get_xdata(), dataset["spectrum_quantile"])
    np.testing.assert_array_equal(spectrum.get_ydata(), dataset["level"])
    # Kolmogorov and Smirnov's distance of n slices to the spectrum that they were drawn from, at the level 0.01
    at = np.interp(sampled.get_xdata(), spectrum.get_xdata(), spectrum.get_ydata())
    assert np.abs(at - sampled.get_ydata()).max() < 1.63 / dataset.sizes["sample"] ** 0.5
    t, f = float(dataset["trace"]), float(dataset["frobenius_norm"])
    np.testing.assert_allclose(
        limit.get_ydata(), distribution_smallest(limit.get_xdata(), t, f), atol=1e-12
    )


# What is drawn


def test_slices_are_drawn_in_parameter_space_length_with_alpha_across():
    surface = fabricate.slices()["random_train"]
    loss = surface["loss"]
    loss[:] = 1 + np.arange(11.0)[:, None]  # rises with alpha alone
    ax = module("slices").draw({"mlp": {"random_train": surface}}, LABELS).axes[0]
    assert ax.get_xlim()[1] == pytest.approx(
        float(loss["alpha"].max()) * loss.attrs["length_alpha"]
    )
    lines = ax.collections[1]  # contour lines above the fill
    for path in lines.get_paths():
        if len(path.vertices):
            assert np.ptp(path.vertices[:, 0]) < 1e-9
            assert np.ptp(path.vertices[:, 1]) > 1
    lowest = [line for line in ax.lines if line.get_marker() == "o"]
    assert lowest[0].get_xdata()[0] == pytest.approx(ax.get_xlim()[0])


def test_lowest_point_ignores_what_is_not_finite():
    loss = np.array([[3.0, np.nan], [2.0, 5.0], [4.0, 6.0]])
    alpha, beta = np.array([-1, 0, 1]), np.array([10, 20])
    assert drawing.lowest_point(alpha, beta, loss) == (0.0, 10.0)


@pytest.mark.parametrize(
    ("losses", "logarithmic"),
    [
        ([1.0, 2.0], False),
        ([1e-3, 1.0], True),
        ([1e-3, np.nan, 1.0], True),
        ([-1.0, 1000.0], False),
        ([0.0, 1000.0], False),
        ([np.nan], False),
    ],
)
def test_levels_hold_all_finite_losses(losses, logarithmic):
    norm, levels = drawing.loss_levels(np.array(losses))
    assert isinstance(norm, LogNorm) == logarithmic
    assert (np.diff(levels) > 0).all()
    finite = np.array(losses)[np.isfinite(losses)]
    assert (finite >= levels[0]).all()
    assert (finite <= levels[-1]).all()


def test_signed_levels_are_centred_on_zero():
    norm, levels = drawing.signed_levels(np.array([-1.0, 3.0]))
    assert norm(0.0) == pytest.approx(0.5)
    assert 0.0 in levels
    assert drawing.signed_levels(np.zeros(1))[1][-1] > 0


def test_panel_letters():
    letters = [drawing.panel_letter(i) for i in (0, 25, 26, 51, 52)]
    assert letters == ["a", "z", "aa", "az", "ba"]


def test_running_estimates_equal_the_estimates_of_the_first_samples():
    samples = np.random.default_rng(0).standard_normal(20) + 1e6  # cancellation
    mean, error = trace_convergence.running(samples)
    for count in (2, 7, 20):
        first = samples[:count]
        assert mean[count - 2] == pytest.approx(first.mean(), rel=1e-12)
        expected = first.std(ddof=1) / np.sqrt(count)
        assert error[count - 2] == pytest.approx(expected, rel=1e-9)


def test_block_errors_fall_as_the_root_of_the_block_and_show_a_bias():
    samples = np.random.default_rng(0).standard_normal(100_000)
    sizes, errors = trace_cost.block_errors(samples, 0.0)
    np.testing.assert_allclose(errors[:9], 1 / np.sqrt(sizes[:9]), rtol=0.15)
    assert sizes[-1] * 4 <= samples.size
    _, biased = trace_cost.block_errors(samples, 3.0)
    assert biased[-1] == pytest.approx(3.0, rel=0.05)


def test_preparation_is_paid_once():
    dataset = made("trace_estimators")
    total = float(dataset["passes"].sel(estimator="hutch_plus_plus"))
    fixed, each_sample = trace_cost.cost_parts(dataset, "hutch_plus_plus", None)
    assert fixed > 0
    n_samples = float(dataset["n_samples"].sel(estimator="hutch_plus_plus"))
    assert fixed + n_samples * each_sample == pytest.approx(total)
    # Seconds of other estimators, noise of the machine, have no part in it.
    seconds = {"hutch_plus_plus": 7.0, "hutchinson": 1e3}
    shared_out = trace_cost.cost_parts(dataset, "hutch_plus_plus", seconds)
    assert shared_out == pytest.approx((7 * fixed / total, 7 * each_sample / total))
    assert trace_cost.cost_parts(dataset, "directional", None)[0] == 0


def test_parabola_is_exact_for_a_quadratic():
    distance = np.linspace(-2, 2, 41)
    loss = 3 + 0.5 * distance - 0.7 * distance**2
    np.testing.assert_allclose(lines.parabola(distance, loss, 0.5, -1.4), loss, atol=1e-12)


def test_fitted_exponent_of_a_power_law():
    passes = {str(n): fabricate.passes(n, exponents=(1.5, 0.5)) for n in (100, 1_000, 10_000)}
    left, right = cost_scaling.draw(passes).axes
    for ax, exponent in ((left, "1.50"), (right, "0.50")):
        assert all(exponent in text.get_text() for text in ax.get_legend().get_texts())


# Animations


@pytest.mark.parametrize("name", ANIMATIONS)
def test_animation_is_small_and_equal_to_the_byte(name, tmp_path):
    paths = [tmp_path / "first.gif", tmp_path / "second.gif"]
    for path in paths:
        DECLARED[name][0](**arguments(name), path=path, n_frames=8)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as picture:
        assert picture.n_frames == 8
        first = np.asarray(picture.convert("RGB"))
        picture.seek(7)
        assert (first != np.asarray(picture.convert("RGB"))).any()
    assert paths[0].stat().st_size * 40 / 8 < 1_000_000


def saddle(slope: float = 0.0, fall: float = 0.01) -> xr.Dataset:
    """½(x² − fall·y²) + slope·(x + y) over a square, in directions of lengths 2 and 5."""
    x = np.linspace(-1, 1, 21)
    loss = 1 + (x[:, None] ** 2 - fall * x**2) / 2 + slope * (x[:, None] + x)
    return xr.Dataset(
        {"loss": (("alpha", "beta"), loss, {"length_alpha": 2.0, "length_beta": 5.0})},
        coords={"alpha": x / 2, "beta": x / 5},
    )


def test_slices_are_white_at_the_loss_of_the_network_and_span_their_largest_change():
    found = slices.panels({"hessian_train": saddle(), "hessian_test": saddle() * 3})
    assert list(found) == ["hessian", "middle"]
    assert slices.NORM(0) == 0.5
    assert slices.NORM([-1.0, 1.0]).tolist() == [0.0, 1.0]
    assert (np.diff(slices.LEVELS) > 0).all()
    assert found["hessian"].bound == pytest.approx(0.5)
    assert found["hessian"].square == pytest.approx((0.5, 0.5))
    # A side a hundred times fainter than the other is seen.
    assert slices.NORM(found["hessian"].change.min() / found["hessian"].bound) < 0.45


def test_the_middle_of_a_slice_has_no_slope():
    """What is left of a sloped saddle is the saddle of a critical point."""
    sloped, level = (
        slices.panels({"hessian_train": saddle(slope)})["middle"] for slope in (0.3, 0.0)
    )
    np.testing.assert_allclose(sloped.alpha, np.linspace(-0.5, 0.5, 11), atol=1e-12)
    np.testing.assert_allclose(sloped.change, level.change, atol=1e-12)
    assert not sloped.lowest


def test_rows_of_slices_are_networks_or_splits():
    surfaces = fabricate.slices()
    one = slices.draw({"mlp": surfaces}, LABELS, ("train", "test"))
    labels = [ax.get_ylabel().split("\n")[0] for ax in one.axes]
    assert [label for label in labels if label in slices.SPLITS.values()] == ["training", "test"]
    assert len(one.axes) == 2 * 4 + 1
    del surfaces["filter_train"]
    assert len(slices.draw({"mlp": surfaces}, LABELS).axes) == 3 + 1


def test_a_tie_is_no_fall_of_the_loss():
    """Where no plane finds a lower loss nothing is drawn of it, and its share is one half."""
    dataset = made("lowest_losses")
    for name in ("lowest_loss", "hessian_lowest_loss", "slope_lowest_loss"):
        dataset[name][:] = float(dataset["loss"])
    falls, shares = module("lowest_losses").draw({"mlp": dataset}, LABELS).axes
    assert all(np.isnan(line.get_ydata()).all() for line in falls.lines[:3])
    _, drawn = shares.lines
    assert set(drawn.get_ydata()) == {0.5}


def test_departure_is_marked_where_the_median_leaves_by_half():
    dataset = made("apparent_curvature")
    radius = dataset["radius"].values
    dataset["mean_curvature"][:] = float(dataset["reference"]) * (1 + (radius / radius[3]) ** 2)
    curvature, saddles = module("apparent_curvature").draw({"mlp": dataset}, LABELS).axes
    point = [line for line in curvature.lines if line.get_marker() == "o"]
    assert radius[2] < float(point[0].get_xdata()[0]) < radius[3]
    assert point[0].get_ydata()[0] == 1.5
    assert len(saddles.lines) == 1
    # Nothing is resolved where the losses are all noise.
    dataset["rounding"][:] = np.inf
    curvature, _ = module("apparent_curvature").draw({"mlp": dataset}, LABELS).axes
    assert not [line for line in curvature.lines if line.get_marker() == "o"]


def test_kinds_are_the_sums_of_their_parameters():
    dataset = made("localisation")
    figure = localisation.draw({"mlp": dataset}, LABELS)
    kinds, layers = figure.axes
    drawn = sorted(round(bar.get_width(), 9) for bar in kinds.patches)
    share, size = dataset["share"].groupby("kind").sum(), dataset["size"].groupby("kind").sum()
    ends = share.transpose("pair", "kind").values
    expected = [*ends[-1], *ends[0], *(size / size.sum()).values]
    assert drawn == pytest.approx(sorted(expected), abs=1e-8)
    assert sum(bar.get_height() for bar in layers.patches) == pytest.approx(3)
