"""Published tables: every cell against the artifact that it is read from."""

import math
from collections.abc import Callable
from pathlib import Path

import fabricate
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from fabricate import made
from scipy.stats import kendalltau, linregress

from hessian_directions.analyses import registry
from hessian_directions.reporting import tables
from hessian_directions.reproduction import artifacts
from hessian_directions.statistics.proportions import clopper_pearson
from hessian_directions.statistics.rank_correlation import jackknife, kendall

LABELS = {"mlp": "MLP (GELU)", "fit": "Approximator"}


@pytest.fixture(scope="module")
def scores() -> dict[str, xr.Dataset]:
    return {"mlp": made("scores"), "fit": made("scores", "regression")}


# Networks.


def test_gauss_newton() -> None:
    dataset = made("gauss_newton")
    table = tables.gauss_newton({"mlp": dataset})
    row = table.iloc[0]
    assert row["trace_share"] == float(dataset["trace_share"])
    for matrix in ("hessian", "gauss_newton", "rest"):
        for name in ("trace", "trace_standard_error", "frobenius_norm", "largest"):
            assert row[f"{name}_{matrix}"] == float(dataset[name].sel(matrix=matrix))
    assert row["smallest_rest"] < 0
    assert "smallest_gauss_newton" not in table  # it is not computed


def test_barriers() -> None:
    dataset = made("interpolation")
    table = tables.barriers({"mlp": dataset})
    assert len(table) == dataset["barrier"].size == 3 * 1 * 2  # no statistics are kept
    row = table.iloc[3]
    assert (row["start"], row["end"], row["split"]) == ("network_0", "network_2", "test")
    one = dataset.isel(line=1).sel(statistics="interpolated", split="test")
    assert row["barrier"] == float(one["barrier"]) >= 0
    assert row["loss_start"] == float(one["loss"].sel(x=0))
    assert row["accuracy_end"] == float(one["accuracy"].sel(x=1))
    assert row["distance"] == float(one["distance"])


def test_networks(scores: dict[str, xr.Dataset]) -> None:
    pairs, sampled = made("eigenpairs"), made("visibility")
    trained = {"mlp": fabricate.history()}
    table = tables.networks(LABELS, scores, {"mlp": pairs}, {"mlp": sampled}, trained)
    assert list(table["network"]) == ["mlp", "fit"]
    row = table.iloc[0]
    assert row["label"] == "MLP (GELU)"
    assert (row["training_images"], row["training_epochs"]) == (60, 30)
    assert table.iloc[1][["training_images", "training_epochs"]].isna().all()
    for name in ("loss", "gradient_norm", "test_accuracy", "theta_norm", "n_parameters"):
        assert row[name] == float(scores["mlp"][name])
    for end, index in (("smallest", 0), ("largest", -1)):
        assert row[end] == pairs["value"].values[index]
        assert row[f"{end}_residual"] == pairs["residual"].values[index]
        assert row[f"{end}_exact_curvature"] == pairs["exact_curvature"].values[index]
    assert row["smallest"] < 0 < row["largest"]
    for name in ("n_products", "n_check_products"):
        assert row[name] == pairs.attrs[name]
    for name in ("trace", "trace_standard_error", "frobenius_norm", "frobenius_standard_error"):
        assert row[name] == float(sampled[name])
    assert row["mean_curvature"] == row["trace"] / row["n_parameters"]
    assert row["r"] == pytest.approx(row["trace"] / row["frobenius_norm"])
    # The fit of a regression is no scalar.
    assert not {"x", "target", "output"} & set(table)


def test_network_that_was_not_analyzed(scores: dict[str, xr.Dataset], tmp_path: Path) -> None:
    """Its cells stay empty, also in the file, and counts stay whole numbers."""
    table = tables.networks(LABELS, scores, {"mlp": made("eigenpairs")}, {}, {})
    row = table.iloc[1]
    empty = ["smallest", "largest_residual", "n_products", "trace", "r", "mean_curvature"]
    assert row[[*empty, "test_accuracy"]].isna().all()
    artifacts.write_table(tmp_path / "t.csv", table)
    text = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    assert list(text["n_products"]) == [str(made("eigenpairs").attrs["n_products"]), ""]
    assert [int(n) for n in text["n_parameters"]] == list(table["n_parameters"])
    assert text.loc[1, "largest"] == ""


def test_visibility() -> None:
    sampled = made("visibility")
    spectrum = made("spectrum")
    (row,) = tables.visibility({"mlp": sampled}, {"mlp": spectrum}).to_dict("records")
    assert row["n_planes"] == 100
    determinants = np.linalg.det(sampled["projected_hessian"].values)
    assert row["visibility_direct"] == pytest.approx((determinants < 0).mean())
    assert row["visibility_direct_low"] <= row["visibility_direct"] < row["visibility_direct_high"]
    for name in ("visibility_spectrum", "lowest_twentieth_high", "tail", "condition"):
        assert row[name] == float(sampled[name])
    for name in ("dimensions_needed", "dimensions_needed_standard_error"):
        np.testing.assert_equal(row[name], float(spectrum[name]))
    # An archive that was made without them, and a network without a spectrum.
    older = sampled.drop_vars(["visibility_corrected", "condition"])
    (row,) = tables.visibility({"mlp": older}, {}).to_dict("records")
    assert np.isnan([row["condition"], row["dimensions_needed"]]).all()


# Saddles.


def test_architectures(scores: dict[str, xr.Dataset]) -> None:
    pairs, sampled, place = made("eigenpairs"), made("visibility"), made("localisation")
    table = tables.architectures(LABELS, scores, {"mlp": pairs}, {"mlp": sampled}, {"mlp": place})
    assert list(table["network"]) == ["mlp"]  # the curvature of the other is not localised
    row = table.iloc[0]
    assert row["product_mode"] == "reverse over reverse"
    assert row["second_derivative_mode"] == "Taylor mode"
    assert row["test_accuracy"] == float(scores["mlp"]["test_accuracy"])
    assert (row["smallest"], row["largest"]) == tuple(pairs["value"].values[[0, -1]])
    assert row["visibility"] == float(sampled["visibility_spectrum"])
    assert row["visibility_low"] <= row["visibility"] <= row["visibility_high"]
    for end, index in (("largest", -1), ("smallest", 0)):
        of_kinds: dict[str, float] = {}
        shares = place["share"].values[index].tolist()
        for kind, share in zip(place["kind"].values.tolist(), shares, strict=True):
            of_kinds[kind] = of_kinds.get(kind, 0.0) + share
        assert row[f"{end}_kind"] == max(of_kinds, key=lambda kind: of_kinds[kind])
        assert row[f"{end}_kind_share"] == pytest.approx(max(of_kinds.values()))
        assert row[f"{end}_layer"] in place["layer"].values


def test_archive_that_does_not_say_the_modes(scores: dict[str, xr.Dataset]) -> None:
    old = {"mlp": scores["mlp"].drop_attrs()}
    table = tables.architectures(LABELS, old, {}, {}, {"mlp": made("localisation")})
    assert table.iloc[0]["product_mode"] == ""
    assert table.iloc[0][["largest", "trace", "visibility"]].isna().all()


def test_saddles() -> None:
    """Means of the eigenvalues of the projected Hessians, against NumPy's, and their theory."""
    dataset = made("saddles")
    table = tables.saddles(dataset)
    assert list(table["n_positive"]) == list(dataset["saddle"].values)
    for index, row in table.iterrows():
        one = dataset.isel(saddle=index)
        curvatures = np.linalg.eigvalsh(one["projected_hessian"].values)
        for name, values in zip(("smallest", "largest"), curvatures.T):
            assert row[name] == pytest.approx(values.mean())
            error = values.std(ddof=1) / math.sqrt(300)
            assert row[f"{name}_standard_error"] == pytest.approx(error)
            # The theory is for many dimensions; 60 are enough for a tenth of f.
            slack = 5 * error + 0.1 * math.sqrt(120)
            assert row[f"{name}_theory"] == pytest.approx(row[name], abs=slack)
        assert row["trace"] == 2 * (row["n_positive"] - 60)
        assert row["r"] == pytest.approx(row["trace"] / math.sqrt(120))
        assert row["visibility"] == float(one["visibility_sampled"])
    gap = table["largest_theory"] - table["smallest_theory"]
    assert gap.values == pytest.approx(2 * math.sqrt(120) * math.sqrt(math.pi / 2))


def seen(*shares: float) -> xr.Dataset:
    return xr.Dataset(
        {
            "negative_seen": (("dimension_saddle", "dimension"), [list(shares)]),
            "critical_dimension": ("dimension_saddle", [5.0]),
            "quarter_r_squared": ("dimension_saddle", [4.0]),
        },
        coords={"dimension_saddle": [70], "dimension": [1, 2, 4, 8]},
    )


@pytest.mark.parametrize(
    ("shares", "half"),
    [
        ((0.0, 0.25, 0.75, 1.0), 3.0),
        ((0.0, 0.0, 0.25, 0.75), 6.0),
        ((0.0, 0.5, 0.9, 1.0), 2.0),
        ((0.0, 0.0, 0.0, 0.5), 8.0),
        # Half is not reached, or exceeded from the start: no number is invented.
        ((0.0, 0.0, 0.1, 0.4), math.nan),
        ((0.6, 0.7, 0.8, 0.9), math.nan),
    ],
)
def test_dimension_that_half_of_the_subspaces_need(shares: tuple, half: float) -> None:
    (row,) = tables.dimensions(seen(*shares)).to_dict("records")
    assert row["half_dimension"] == pytest.approx(half, nan_ok=True)
    assert (row["n_positive"], row["critical_dimension"], row["quarter_r_squared"]) == (70, 5, 4)


# Traces.


def test_traces() -> None:
    compared = {"resnet": made("trace_estimators"), "mlp": made("trace_estimators", "smooth")}
    saddles = made("saddle_traces")
    records = {"mlp": {"seconds": {"hutchinson": 2.5}}}
    table = tables.traces(compared, saddles, records, {"seconds": {"20": {"directional": 0.5}}})
    subjects = compared | {f"saddle {n}": saddles.sel(saddle=n) for n in saddles["saddle"].values}
    rows = table.set_index(["subject", "estimator"])
    assert list(rows.index) == [(s, e) for s in subjects for e in subjects[s]["estimator"].values]
    for (subject, estimator), row in rows.iterrows():
        one = subjects[subject].sel(estimator=estimator)
        samples = one["samples"].dropna("sample").values
        assert row["n_samples"] == len(samples)
        assert row["mean"] == pytest.approx(samples.mean(), abs=1e-9)
        error = samples.std(ddof=1) / len(samples) ** 0.5
        assert row["standard_error"] == pytest.approx(error, abs=1e-9)
        assert row["activation"] == ("relu" if subject == "resnet" else "smooth")
        # The ratio to a trace of zero is empty.
        expected = row["mean"] / row["reference"] if subject != "saddle 20" else math.nan
        assert row["ratio"] == pytest.approx(expected, nan_ok=True)
    assert rows["seconds"].dropna().to_dict() == {
        ("mlp", "hutchinson"): 2.5,
        ("saddle 20", "directional"): 0.5,
    }


def test_step_sizes() -> None:
    dataset = made("step_sizes")
    table = tables.step_sizes({"resnet": dataset})
    assert len(table) == dataset.sizes["n_images"] * dataset.sizes["step"]
    row = table.iloc[dataset.sizes["step"] + 3]
    one = dataset.isel(n_images=1, step=3)
    assert (row["n_images"], row["step"]) == (60, float(one["step"]))
    assert row["gap"] == pytest.approx(row["difference"] - row["exact"])
    # Differences and exact curvatures share their directions, and so does the error of the gap.
    gaps = one["difference"].values - one["exact"].values
    error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    assert row["gap_standard_error"] == pytest.approx(error)


def test_softplus() -> None:
    studies = {"resnet": made("step_sizes"), "mlp": made("step_sizes", "smooth")}
    table = tables.softplus(studies)
    dataset = studies["resnet"]
    assert set(table["network"]) == {"resnet"}
    assert list(table["sharpness"]) == list(dataset["sharpness"].values)
    assert table["curvature"].values == pytest.approx(dataset["softplus"].mean("direction").values)
    assert set(table["relu"]) == {float(dataset["exact"][-1].mean())}
    # Along the same directions, as the figure draws it.
    gaps = dataset["softplus"].values - dataset["exact"][-1].values
    errors = gaps.std(axis=1, ddof=1) / math.sqrt(gaps.shape[1])
    assert table["gap_standard_error"].values == pytest.approx(errors)


def test_kinks() -> None:
    studies = {"resnet": made("kinks"), "mlp": made("kinks", "smooth")}
    table = tables.kinks(studies)
    dataset = studies["resnet"]
    assert len(table) == 2 * dataset.sizes["step"]
    row, one = table.iloc[2], dataset.isel(step=2)
    gaps = one["difference"].values - one["exact"].values
    predicted = one["predicted"].values
    assert row["step"] == float(one["step"])
    assert row["measured"] == pytest.approx(gaps.mean())
    assert row["predicted_ratio"] == pytest.approx(predicted.mean() / one["exact"].values.mean())
    line = linregress(predicted, gaps)
    assert (row["slope"], row["correlation"]) == pytest.approx((line.slope, line.rvalue))
    rest = gaps - predicted
    assert row["rest_standard_error"] == pytest.approx(rest.std(ddof=1) / math.sqrt(len(rest)))
    negative, positive = one["n_kinks"].values.sum(1)
    assert row["n_kinks"] == pytest.approx((negative + positive) / len(rest))
    assert row["negative_share"] == pytest.approx(negative / (negative + positive))
    assert row["nearest_kink"] == float(dataset["nearest"].min())
    smooth = table.iloc[-1]
    assert (smooth["predicted"], smooth["n_kinks"]) == (0, 0)
    assert smooth[["correlation", "slope", "negative_share", "nearest_kink"]].isna().all()


# Slices.


def test_surface_checks() -> None:
    dataset = made("eigenpairs", k_smallest=2, k_largest=2)
    table = tables.surface_checks({"mlp": dataset, "resnet": made("eigenpairs")})
    assert list(table["network"]) == ["mlp"] * 4 + ["resnet"] * 2
    assert list(table["value"][:4]) == list(dataset["value"].values)
    assert table["converged"].dtype == bool
    steps = [f"surface_{text}" for text in ("0.1", "0.01", "0.001", "0.0001")]
    assert list(table)[-4:] == steps
    assert table[steps].values[:4] == pytest.approx(dataset["surface_curvature"].values)


@pytest.mark.parametrize(
    ("loss", "down_to", "lowest"),
    [
        (lambda x: -2 * x**2 + 50 * x**4 + 0.1 * x, 0.15, 0.15),  # turns up at 0.2
        (lambda x: x**2, 0.0, 0.0),
        (lambda x: -(x**2) + x, 0.3, 0.3),
        (lambda x: np.where(abs(x) == 0.1, 0.01, -(x**2)), 0.05, 0.3),  # down again later
    ],
)
def test_shallow_sides(loss: Callable, down_to: float, lowest: float) -> None:
    distance = np.round(np.linspace(-0.3, 0.3, 13), 9)
    dataset = xr.Dataset(
        {
            "loss": (("direction", "distance"), np.stack([0 * distance, loss(distance)])),
            "curvature": ("direction", [1.0, -2.0]),
        },
        coords={"direction": ["random_0", "smallest"], "distance": distance},
    )
    (row,) = tables.shallow_sides({"mlp": dataset}).to_dict("records")
    assert row["bends_down_to"] == pytest.approx(down_to)
    assert row["lowest_distance"] == pytest.approx(lowest)
    assert row["lowest_loss"] == loss(distance).min()
    assert (row["nearest"], row["edge"], row["curvature"]) == (0.05, 0.3, -2.0)
    for name in ("nearest", "edge"):
        x = np.array([row[name], -row[name], 0.0])
        plus, minus, middle = loss(x)
        assert row[f"{name}_difference"] == pytest.approx((plus + minus - 2 * middle) / x[0] ** 2)
    assert row["loss_at_origin"] == 0


def test_image_counts() -> None:
    counted = fabricate.image_counts()
    rows = tables.image_counts({"mlp": counted}).to_dict("records")
    assert [row["n_images"] for row in rows] == [15, 30, 60]
    assert [row["largest"] for row in rows] == counted["largest"].values.tolist()
    assert {row["network"] for row in rows} == {"mlp"}


def test_cost_scaling() -> None:
    passes = {str(n): fabricate.passes(n, exponents=(0.5, 1.1)) for n in (100, 1_000, 10_000)}
    table = tables.cost_scaling(passes)
    along = table[table["along"] == "n_images"]
    assert len(along) == 3 * 4
    np.testing.assert_allclose(along["exponent"], 1.1)
    across = table[table["network"] == "all"]
    np.testing.assert_allclose(across["exponent"], 0.5)
    assert across["points"].tolist() == [3] * 4


def test_rendered_curvatures() -> None:
    """½(3x² − 0.01y²) + 0.02y on half-widths 0.1 and 1: the slope moves the level point out of the picture."""
    x, y = np.linspace(-0.1, 0.1, 21), np.linspace(-1, 1, 21)

    def surface(slope: float) -> xr.Dataset:
        loss = (3 * x[:, None] ** 2 - 0.01 * y**2) / 2 + slope * y
        return xr.Dataset(
            {"loss": (("alpha", "beta"), loss, {"length_alpha": 2.0, "length_beta": 1.0})},
            coords={"alpha": x / 2, "beta": y},
        )

    slices = {"mlp": {"random_train": surface(0.002), "hessian_train": surface(0.02)}}
    rows = tables.rendered_curvatures(slices).to_dict("records")
    assert [(row["plane"], row["region"]) for row in rows] == [
        (plane, region) for plane in ("random", "hessian") for region in (0.25, 0.5, 1.0)
    ]
    for row in rows:
        assert row["saddle"]
        assert (row["smallest"], row["largest"]) == pytest.approx((-0.01, 3.0))
        assert row["curvature_alpha"] == pytest.approx(3.0)
        assert row["fall"] == pytest.approx(-0.005 * row["region"] ** 2)
        assert row["rise"] == pytest.approx(0.015 * row["region"] ** 2)
    # Level at y = slope/0.01: 0.2 and 2.
    assert [row["saddle_inside"] for row in rows] == [True] * 3 + [False] * 3


def test_apparent_curvature() -> None:
    """Ten planes whose curvature is t/N, then triple; one loss is not finite, three planes are saddles."""
    radius, curvature = np.array([0.1, 1.0, 2.0]), np.ones((10, 3)) * [2.0, 2.0, 6.0]
    curvature[0, 2] = np.nan
    smallest = np.where(np.arange(10)[:, None] < 3, -1.0, 1.0) * np.ones(3)
    dataset = xr.Dataset(
        {
            "mean_curvature": (("plane", "radius"), curvature),
            "smallest": (("plane", "radius"), smallest),
            "largest": (("plane", "radius"), 5 + 0 * smallest),
            "exact_curvature": ("plane", curvature[:, 0]),
            "rounding": ("radius", [0.02, 0.002, 0.0]),
            "reference": 2.0,
            "reference_standard_error": 0.1,
        },
        coords={"radius": radius},
        attrs={"n_images": 50},
    )
    rows = tables.apparent_curvature({"mlp": dataset}).to_dict("records")
    assert [row["ratio"] for row in rows[:2]] == [1.0, 1.0]
    assert math.isnan(rows[2]["ratio"])
    assert [row["n_finite"] for row in rows] == [10, 10, 9]
    assert rows[0]["saddles"] == 0.3
    assert rows[2]["saddles"] == pytest.approx(2 / 9)
    assert rows[0]["rounding"] == 0.01
    (row,) = tables.departure_radii({"mlp": dataset}).to_dict("records")
    assert (row["n_planes"], row["n_images"], row["exact"]) == (10, 50, 2.0)
    # A quarter of the way from 1² to 2²; half of the planes decide.
    assert row["departure_radius"] == pytest.approx(1.75**0.5)
    assert row["departure_radius_low"] <= row["departure_radius"] <= row["departure_radius_high"]


def test_lowest_losses() -> None:
    """Of four planes one is lower than the Hessian plane, one equal within rounding."""
    dataset = xr.Dataset(
        {
            "lowest_loss": (("plane", "radius"), [[0.5], [0.2], [0.4], [0.3 + 5e-9]]),
            "hessian_lowest_loss": ("radius", [0.3]),
            "slope_lowest_loss": ("radius", [0.1]),
            "random_slope": ("radius", [0.02]),
            "loss": 0.5,
            "noise": 1e-9,
        },
        coords={"radius": [0.7]},
        attrs={"n_images": 50, "n_angles": 8},
    )
    (row,) = tables.lowest_losses({"mlp": dataset}).to_dict("records")
    assert (row["radius"], row["n_planes"], row["random_lowest_loss"]) == (0.7, 4, 0.2)
    assert row["random_median_loss"] == pytest.approx(0.35)
    assert (row["as_low"], row["as_low_ties"]) == (1.5 / 4, 1)
    assert row["as_low_low"] == pytest.approx(clopper_pearson(1, 4)[0])
    assert row["as_low_high"] == pytest.approx(clopper_pearson(2, 4)[1])
    assert (row["as_low_as_slope"], row["as_low_as_slope_ties"]) == (0.0, 0)


# Population.


@pytest.fixture(scope="module")
def population() -> xr.Dataset:
    members = made("population")
    members["reached"][3] = False
    return members


def test_correlations(population: xr.Dataset) -> None:
    table = tables.correlations(population).set_index(["measure", "generalization"])
    assert len(table) == population.sizes["measure"] * 2
    one = population.sel(measure="largest", generalization="gap_accuracy")
    row = table.loc["largest", "gap_accuracy"]
    for name in ("kendall", "within_strata", "granulated", "information"):
        for end in ("", "_low", "_high"):
            expected = float(one[f"correlation{end}"].sel(statistic=name))
            assert row[f"{name}{end}"] == pytest.approx(expected, nan_ok=True)
    low = float(one["level_correlation_low"].sel(level=0.1))
    assert row["noise_0.1_low"] == pytest.approx(low, nan_ok=True)


def test_invariance(population: xr.Dataset) -> None:
    """DHD and relative flatness stay as they are under rescaling, to rounding; t and λ_max do not."""
    table = tables.invariance(population).set_index("measure")
    invariant = set(table.index[table["invariant"]])
    assert invariant == {str(name) for name in population["invariant"].values}
    assert table.loc["trace", "ratio_highest"] > 1.1
    for end in ("", "_low", "_high"):
        one = population[f"advantage{end}"].sel(
            invariant="adaptive_trace", generalization="gap_loss"
        )
        column = f"advantage_gap_loss{end}"
        assert table.loc["adaptive_trace", column] == pytest.approx(float(one), nan_ok=True)
        assert math.isnan(table.loc["trace", column])


def test_invariant_measures_are_better_where_the_interval_says_so(population: xr.Dataset) -> None:
    for low, high, better, worse in ((0.1, 0.2, True, False), (-0.2, -0.1, False, True)):
        decided = population.assign(
            advantage_low=xr.full_like(population["advantage_low"], low),
            advantage_high=xr.full_like(population["advantage_high"], high),
        )
        row = tables.invariance(decided).set_index("measure").loc["relative_flatness"]
        assert (row["better_gap_loss"], row["worse_gap_accuracy"]) == (better, worse)


def test_levels(population: xr.Dataset) -> None:
    table = tables.levels(population).set_index(["factor", "level"])
    varied = {"batch_size": 2, "label_noise": 2}  # seeds are clusters, not levels
    assert table.groupby("factor").size().to_dict() == varied
    reached = population["reached"].values
    noisy = population["label_noise"].values == 0.1
    row = table.loc["label_noise", 0.1]
    assert (row["n_members"], row["n_reached"]) == (noisy.sum(), (noisy & reached).sum())
    x, y = (population[name].values[noisy & reached] for name in ("mean_curvature", "gap_loss"))
    assert row["gap_loss"] == pytest.approx(kendalltau(x, y).statistic)
    interval = jackknife(kendall(x, y), population["seed"].values[noisy & reached])
    ends = row["gap_loss_low"], row["gap_loss_high"]
    assert ends == pytest.approx((interval.low, interval.high), nan_ok=True)


def test_population(population: xr.Dataset) -> None:
    """Ranges are those of the members that reached the target."""
    spoiled = population.copy(deep=True)
    spoiled["trace"][~population["reached"].values] = 1e9
    (row,) = tables.population(spoiled).to_dict("records")
    reached = population.isel(member=population["reached"].values)
    assert (row["n_members"], row["n_reached"]) == (8, reached.sizes["member"])
    for name in ("trace", "gap_loss", "smallest"):
        assert row[f"{name}_lowest"] == float(reached[name].min())
        assert row[f"{name}_highest"] == float(reached[name].max())
    assert row["rescaled_trace_highest"] == float(population["rescaled_trace"].max())


def test_population_that_nobody_reached(population: xr.Dataset) -> None:
    nobody = population.assign(reached=xr.zeros_like(population["reached"]))
    (row,) = tables.population(nobody).to_dict("records")
    assert row["n_reached"] == 0
    assert math.isnan(row["trace_lowest"])
    assert row["rescaled_loss_lowest"] == float(population["rescaled_loss"].min())


# Cost, and nothing.


def test_cost() -> None:
    def record(rule: str, wall: float, memory: float) -> dict[str, object]:
        times = {"wall_seconds": wall, "cpu_seconds": 2 * wall}
        return {"rule": rule, "peak_memory_bytes": memory * 1e6, **times}

    records = {
        "b.run.json": record("track", 5.0, 10.0),
        "a.run.json": record("find", 1.0, 300.0),
        "c.run.json": record("find", 2.0, 200.0),
    }
    assert tables.cost(records).to_dict("records") == [
        {"rule": "find", "jobs": 2, "wall_seconds": 3, "cpu_seconds": 6, "peak_memory_mb": 300},
        {"rule": "track", "jobs": 1, "wall_seconds": 5, "cpu_seconds": 10, "peak_memory_mb": 10},
    ]


OF_NETWORKS = {*registry.OF_NETWORKS, "labels", "history"}


@pytest.mark.parametrize(
    "name", [name for name, reads in tables.READS.items() if {*reads} <= OF_NETWORKS]
)
def test_table_of_no_network(name: str, tmp_path: Path) -> None:
    """The file can be read again: a CSV file without a column cannot."""
    artifacts.write_table(
        tmp_path / "t.csv", tables.TABLES[name](*({} for _ in tables.READS[name]))
    )
    assert list(pd.read_csv(tmp_path / "t.csv")) == ["network"]


def test_failures_are_those_of_the_records() -> None:
    diverged = "train_network (network=mlp): the training loss became nan"
    records = {
        f"{network}/{rule}": {"rule": rule, "wildcards": {"network": network}} | more
        for network, rule, more in [
            ("mlp", "train_network", {"failed": diverged}),
            ("mlp", "trace", {"failed": diverged}),
            ("mlp", "visibility_shard", {"failed": diverged}),
            ("resnet", "trace", {}),
        ]
    }
    table = tables.failures(records)
    assert list(table["rule"]) == ["train_network", "trace", "visibility_shard"]
    assert set(table["network"]) == {"mlp"}
    assert set(table["reason"]) == {diverged}
    assert list(tables.failures({}).columns) == ["network", "rule", "reason"]
