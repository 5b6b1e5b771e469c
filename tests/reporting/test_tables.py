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
from scipy.stats import kendalltau

from hessian_directions.reporting import tables
from hessian_directions.reproduction import artifacts

LABELS = {"mlp": "MLP (GELU)", "fit": "Approximator"}


@pytest.fixture(scope="module")
def scores() -> dict[str, xr.Dataset]:
    return {"mlp": made("scores"), "fit": made("scores", "regression")}


# Networks.


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
    (row,) = tables.visibility({"mlp": sampled}).to_dict("records")
    assert row["n_planes"] == 100
    determinants = np.linalg.det(sampled["projected_hessian"].values)
    assert row["visibility_direct"] == pytest.approx((determinants < 0).mean())
    assert row["visibility_direct_low"] <= row["visibility_direct"] < row["visibility_direct_high"]
    for name in ("visibility_spectrum", "lowest_twentieth_high", "tail"):
        assert row[name] == float(sampled[name])


# Saddles.


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


def test_lowest_points() -> None:
    dataset = xr.Dataset(
        {
            "lowest_loss": ("plane", [0.5, 0.2, 0.4, 0.3]),
            "lowest_distance": ("plane", [0.0, 0.5, 0.2, 0.7]),
            "hessian_lowest_loss": 0.3,
            "hessian_lowest_distance": 0.4,
            "loss_at_origin": 0.5,
            "radius": 0.5,
            "n_points": 11,
        }
    )
    (row,) = tables.lowest_points({"mlp": dataset}).to_dict("records")
    assert row == {
        "network": "mlp",
        "n_planes": 4,
        "radius": 0.5,
        "n_points": 11,
        "loss_at_origin": 0.5,
        "hessian_lowest_loss": 0.3,
        "random_lowest_loss": 0.2,
        "random_median_loss": pytest.approx(0.35),
        "planes_as_low": 2,  # one lower, one equal
        "planes_far": 2,  # on an edge and in a corner
    }


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
    for name in ("kendall", "kendall_low", "kendall_high", "granulated", "granulated_low"):
        assert row[name] == float(one[name])


def test_levels(population: xr.Dataset) -> None:
    table = tables.levels(population).set_index(["factor", "level"])
    varied = {"batch_size": 2, "learning_rate": 2, "label_noise": 2}
    assert table.groupby("factor").size().to_dict() == varied
    reached = population["reached"].values
    noisy = population["label_noise"].values == 0.1
    row = table.loc["label_noise", 0.1]
    assert (row["n_members"], row["n_reached"]) == (noisy.sum(), (noisy & reached).sum())
    x, y = (population[name].values[noisy & reached] for name in ("mean_curvature", "gap_loss"))
    assert row["gap_loss"] == pytest.approx(kendalltau(x, y).statistic)
    assert row["gap_loss_low"] < row["gap_loss"] < row["gap_loss_high"]


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


@pytest.mark.parametrize(
    "make",
    [
        tables.visibility,
        tables.step_sizes,
        tables.softplus,
        tables.surface_checks,
        tables.shallow_sides,
        tables.lowest_points,
    ],
)
def test_analysis_of_no_network(make: object, tmp_path: Path) -> None:
    """The file can be read again: a CSV file without a column cannot."""
    assert callable(make)
    artifacts.write_table(tmp_path / "t.csv", make({}))
    assert list(pd.read_csv(tmp_path / "t.csv")) == ["network"]
