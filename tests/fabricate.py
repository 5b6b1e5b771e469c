"""Made-up artifacts in the form the stages write them, for tests of figures, tables and claims.

Everything follows from a spectrum: bulk, outliers of both signs, and Gaussian directions drawn on
it, so that the numbers of one network agree with one another as real ones do. Nothing is trained.
Each function returns one `xarray.Dataset`; a `seed` makes another network of the same kind.
"""

import json

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import bootstrap, kendalltau

from hessian_directions.reporting.page import Results

ESTIMATORS = (
    "finite_difference",
    "quadratic_fit",
    "directional",
    "hutchinson",
    "hutchinson_rademacher",
    "deflated",
    "hutch_plus_plus",
)
# cost of one sample in forward passes
FORWARDS = dict(zip(ESTIMATORS, (2.0, 4.0, 5.0, 8.0, 8.0, 8.0, 8.0)))
FORWARDS_OF_PASSES = {
    "value": 1.0,
    "gradient": 3.0,
    "hessian_vector_product": 9.0,
    "second_directional_derivative": 5.5,
}
MEASURES = (
    "trace",
    "mean_curvature",
    "largest",
    "smallest",
    "frobenius_norm",
    "trace_scaled",
    "largest_scaled",
    "gradient_norm",
)


def eigenvalues(n_parameters: int = 2_000, seed: int = 0) -> NDArray[np.float64]:
    """Spectrum of a trained classifier, ascending: bulk at zero and 13 outliers."""
    rng = np.random.default_rng(seed)
    n_positive, n_negative = 9, 4
    bulk = 0.004 * rng.standard_t(4, n_parameters - n_positive - n_negative) + 0.002
    outliers = rng.uniform(0.8, 1.2) * np.geomspace(0.5, 20.0, n_positive)
    negative = -rng.uniform(0.8, 1.2) * np.geomspace(0.5, 8.0, n_negative)
    return np.sort(np.concatenate([bulk, outliers, negative]))


def _projected(
    spectrum: NDArray[np.float64], n_samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Projected Hessians of Gaussian pairs of directions: Σ λ_i w_i w_i', (n_samples, 2, 2)."""
    w = rng.standard_normal((n_samples, spectrum.size, 2))
    return np.einsum("sia,i,sib->sab", w, spectrum, w, optimize=True)


def _smallest_quantiles(
    spectrum: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Quantiles of κ₋ in 20,000 slices: the outliers one by one, the bulk as a Gaussian matrix."""
    rng = np.random.default_rng(0)
    outliers, bulk = spectrum[np.abs(spectrum) > 0.3], spectrum[np.abs(spectrum) <= 0.3]
    M = _projected(outliers, 20_000, rng) + bulk.sum() * np.eye(2)
    G = rng.standard_normal(M.shape) * np.linalg.norm(bulk) / np.sqrt(2)
    smallest: NDArray[np.float64] = np.linalg.eigvalsh(M + G + G.swapaxes(1, 2))[:, 0]
    return np.quantile(smallest, levels)


def _shows_saddle(projected: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.linalg.det(projected) < 0


def _wilson(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _critical_dimension(spectrum: NDArray[np.float64]) -> float:
    x = np.linspace(0, 1 / abs(spectrum.min()), 4_000)[1:-1]
    return float(np.max(np.sum(spectrum * x[:, None] / (1 + spectrum * x[:, None]), axis=1)))


def saddles(n: int = 100, n_samples: int = 400, n_grid: int = 41, seed: int = 0) -> xr.Dataset:
    """R/synthetic/saddles.nc: L = ½ θ_{2n+1}(Σ_{i≤ñ} θ_i² − Σ_{ñ<i≤2n} θ_i²)."""
    rng = np.random.default_rng(seed)
    n_positive = np.unique(np.rint(n + np.linspace(-0.3, 0.4, 15) * n).astype(int))
    shown = np.array([n - n // 5, n, n + n // 5])

    def spectrum(positive: int) -> NDArray[np.float64]:
        return np.concatenate([-np.ones(2 * n - positive), [0.0], np.ones(positive)])

    projected = np.stack([_projected(spectrum(p), n_samples, rng) for p in n_positive])
    trace = 2.0 * (n_positive - n)
    frobenius = np.full(n_positive.size, np.sqrt(2 * n))
    seen = _shows_saddle(projected).sum(axis=1)
    intervals = np.array([_wilson(k, n_samples) for k in seen])

    length = 2.0  # parameter-space length
    axis = np.linspace(-length, length, n_grid)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    surfaces = np.empty((shown.size, 2, n_grid, n_grid))
    for row, positive in enumerate(shown):
        m = _projected(spectrum(positive), 1, rng)[0] / (2 * n + 1)  # unit directions
        surfaces[row, 0] = 0.5 * (m[0, 0] * a**2 + 2 * m[0, 1] * a * b + m[1, 1] * b**2)
        surfaces[row, 1] = 0.5 * (a**2 - b**2)

    dimension_saddle = np.array([n + n // 10, n + n // 5])
    dimensions = np.arange(1, n // 2)
    critical = np.array([_critical_dimension(spectrum(p)) for p in dimension_saddle])
    chance = 1 / (1 + np.exp(-(dimensions - critical[:, None]) / (1 + 0.06 * critical[:, None])))
    counts = rng.binomial(n_samples, chance)
    bounds = np.array([[_wilson(k, n_samples) for k in row] for row in counts])
    r = 2.0 * (dimension_saddle - n) / np.sqrt(2 * n)
    return xr.Dataset(
        {
            "projected_hessian": (("saddle", "sample", "row", "column"), projected),
            "trace": ("saddle", trace),
            "frobenius_norm": ("saddle", frobenius),
            "visibility_sampled": ("saddle", seen / n_samples),
            "visibility_low": ("saddle", intervals[:, 0]),
            "visibility_high": ("saddle", intervals[:, 1]),
            "visibility_formula": ("saddle", np.exp(-((trace / frobenius) ** 2) / 4) / np.sqrt(2)),
            "surface": (("shown", "plane", "alpha", "beta"), surfaces),
            "negative_seen": (("dimension_saddle", "dimension"), counts / n_samples),
            "negative_seen_low": (("dimension_saddle", "dimension"), bounds[..., 0]),
            "negative_seen_high": (("dimension_saddle", "dimension"), bounds[..., 1]),
            "critical_dimension": ("dimension_saddle", critical),
            "quarter_r_squared": ("dimension_saddle", r**2 / 4),
        },
        coords={
            "saddle": n_positive,
            "shown": shown,
            "plane": ["random", "hessian"],
            "alpha": axis,
            "beta": axis,
            "dimension_saddle": dimension_saddle,
            "dimension": dimensions,
        },
        attrs={"n": n, "n_parameters": 2 * n + 1},
    )


def _samples(
    spectrum: NDArray[np.float64], n_samples: int, kink_bias: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Samples (estimator, sample) of the trace, NaN-padded; four share their directions."""
    exact = np.einsum("si,i->s", rng.standard_normal((n_samples, spectrum.size)) ** 2, spectrum)
    f = np.linalg.norm(spectrum)
    jumps = 1 + kink_bias * rng.uniform(0.5, 1.5, n_samples)
    samples = np.full((len(ESTIMATORS), n_samples), np.nan)
    samples[0] = exact * jumps
    samples[1] = exact * (1 + 0.8 * (jumps - 1))
    samples[2] = exact
    samples[3] = exact * (1 + 1e-6 * rng.standard_normal(n_samples))
    samples[4] = spectrum.sum() + 1.2 * f * rng.standard_normal(n_samples)
    samples[5] = spectrum.sum() + 0.2 * f * rng.standard_normal(n_samples)
    few = _counts(n_samples)[6]
    samples[6, :few] = spectrum.sum() + 0.1 * f * rng.standard_normal(few)
    return samples


def _counts(n_samples: int) -> NDArray[np.int64]:
    """Samples of each estimator: Hutch++ spends two thirds of as many products on its basis."""
    return np.array([n_samples] * 6 + [max(2, n_samples // 3)])


def _passes(count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Forward passes of each estimator: samples, and products before the first sample."""
    before = np.zeros(count.shape)
    before[..., 5] = 8.0 * 4
    before[..., 6] = 8.0 * 2 * count[..., 6]
    return before + np.array(list(FORWARDS.values())) * count


def traces(
    activation: str = "smooth", n_samples: int = 200, n_parameters: int = 2_000, seed: int = 0
) -> xr.Dataset:
    """R/networks/{network}/traces.nc; with "relu" the loss differences see kinks."""
    rng = np.random.default_rng(seed + 1)
    spectrum = eigenvalues(n_parameters, seed)
    samples = _samples(spectrum, n_samples, 0.6 if activation == "relu" else 0.0, rng)
    count = np.isfinite(samples).sum(axis=1)
    deviation = np.nanstd(samples, axis=1, ddof=1)
    exact_reference = activation == "smooth"
    return xr.Dataset(
        {
            "samples": (("estimator", "sample"), samples),
            "mean": ("estimator", np.nanmean(samples, axis=1)),
            "standard_error": ("estimator", deviation / np.sqrt(count)),
            "n_samples": ("estimator", count),
            "passes": ("estimator", _passes(count)),
            "step": ("estimator", [1e-3, 1e-2] + [np.nan] * 5),
            "reference": ((), spectrum.sum() + (0.0 if exact_reference else 0.3)),
            "reference_standard_error": ((), 0.0 if exact_reference else 0.5),
        },
        coords={"estimator": list(ESTIMATORS)},
        attrs={
            "reference_kind": "exact" if exact_reference else "independent Rademacher",
            "activation": activation,
        },
    )


def trace_seconds(n_samples: int = 200, seed: int = 0) -> dict[str, float]:
    """The `seconds` of R/networks/{network}/traces.run.json."""
    rng = np.random.default_rng(seed)
    return {
        name: 2e-3 * passes * rng.uniform(0.9, 1.1)
        for name, passes in zip(ESTIMATORS, _passes(_counts(n_samples)))
    }


def synthetic_traces(n: int = 100, n_samples: int = 200, seed: int = 0) -> xr.Dataset:
    """R/synthetic/traces.nc: traces of three synthetic saddles."""
    rng = np.random.default_rng(seed)
    n_positive = np.array([n - n // 5, n, n + n // 5])
    spectra = [np.repeat([-1.0, 0.0, 1.0], [2 * n - p, 1, p]) for p in n_positive]
    samples = np.stack([_samples(spectrum, n_samples, 0.0, rng) for spectrum in spectra])
    count = np.isfinite(samples).sum(axis=2)
    return xr.Dataset(
        {
            "samples": (("saddle", "estimator", "sample"), samples),
            "mean": (("saddle", "estimator"), np.nanmean(samples, axis=2)),
            "standard_error": (
                ("saddle", "estimator"),
                np.nanstd(samples, axis=2, ddof=1) / np.sqrt(count),
            ),
            "n_samples": (("saddle", "estimator"), count),
            "passes": (("saddle", "estimator"), _passes(count)),
            "step": (("saddle", "estimator"), np.tile([1e-2, 1e-2] + [np.nan] * 5, (3, 1))),
            "reference": ("saddle", 2.0 * (n_positive - n)),
            "reference_standard_error": ("saddle", np.zeros(3)),
        },
        coords={"saddle": n_positive, "estimator": list(ESTIMATORS)},
        attrs={"reference_kind": "exact", "activation": "smooth"},
    )


def history(n_epochs: int = 200, test: bool = True, seed: int = 0) -> xr.Dataset:
    """R/networks/{network}/history.nc."""
    rng = np.random.default_rng(seed)
    epoch = np.unique(np.rint(np.geomspace(1, n_epochs, 80)).astype(int))
    falling = 2.3 * (1 + epoch / 3.0) ** -1.2
    variables = {
        "train_loss": ("epoch", falling * np.exp(0.1 * rng.standard_normal(epoch.size))),
        "learning_rate": ("epoch", np.where(epoch < n_epochs / 2, 0.1, 0.01)),
    }
    if test:
        variables["test_loss"] = ("epoch", falling + 0.08 + 0.02 * np.log(epoch))
        variables["test_accuracy"] = ("epoch", 0.97 - 0.8 * np.exp(-epoch / 5.0))
    attributes = {"epochs": n_epochs, "kept_epoch": n_epochs}
    return xr.Dataset(variables, coords={"epoch": epoch}, attrs=attributes)


def measurements(
    regression: bool = False, n_parameters: int = 2_000, n_points: int = 300, seed: int = 0
) -> xr.Dataset:
    """R/networks/{network}/measurements.nc; for regression with the fit."""
    rng = np.random.default_rng(seed)
    accuracy = np.nan if regression else 1.0
    scalars = {
        "n_parameters": n_parameters,
        "n_images": 50 if regression else 1_000,
        "loss": 8e-5 if regression else 2.2e-3,
        "gradient_norm": 0.004 if regression else 0.19,
        "train_loss": 8e-5 if regression else 2.2e-3,
        "train_accuracy": accuracy,
        "test_loss": 4e-4 if regression else 0.11,
        "test_accuracy": 0.97 * accuracy,
        "theta_norm": 21.3 + seed,
    }
    dataset = xr.Dataset({name: ((), value) for name, value in scalars.items()})
    dataset.attrs["provenance"] = json.dumps({"data": {"n_train": 50 if regression else 1_347}})
    dataset.attrs["self_test"] = "forward over reverse agrees with reverse over reverse"
    if regression:

        def f(x: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.log(np.sin(10 * x) + 2) + np.sin(x)

        x = np.sort(rng.uniform(-1, 1, n_points))
        train_x = np.sort(rng.uniform(-1, 1, 50))
        wobble = 0.02 * np.sin(37 * x + seed) + 0.1 * np.maximum(0, np.abs(x) - 0.9)
        dataset = dataset.assign(
            x=("point", x),
            target=("point", f(x)),
            output=("point", f(x) + wobble),
            train_x=("train_point", train_x),
            train_target=("train_point", f(train_x)),
        )
    return dataset


def eigenpairs(n_parameters: int = 2_000, n_each: int = 2, seed: int = 0) -> xr.Dataset:
    """R/networks/{network}/eigenpairs.nc: `n_each` pairs at each end."""
    spectrum = eigenvalues(n_parameters, seed)
    steps = np.array([1e-1, 1e-2, 1e-3, 1e-4])
    value = np.concatenate([spectrum[:n_each], spectrum[-n_each:]])
    return xr.Dataset(
        {
            "value": ("pair", value),
            "residual": ("pair", 4e-4 * np.abs(value)),
            "converged": ("pair", np.ones(value.size, dtype=bool)),
            "below_noise": ("pair", np.zeros(value.size, dtype=bool)),
            "exact_curvature": ("pair", value * (1 + 1e-7)),
            "surface_curvature": (("pair", "step"), value[:, None] * (1 + 10 * steps**2)),
        },
        coords={"step": steps},
        attrs={
            "n_products": 46,
            "n_check_products": 12,
            "noise_floor": 1e-6 * spectrum[-1],
            "missed_probability": 0.007,
        },
    )


def step_sizes(activation: str = "relu", n_directions: int = 6, seed: int = 0) -> xr.Dataset:
    """R/networks/{network}/step_sizes.nc; with "relu" kinks, and Softplus in their place."""
    rng = np.random.default_rng(seed)
    step, n_images = np.geomspace(1e-8, 1e-1, 22), np.array([100, 1_000])
    shape = (n_images.size, step.size, n_directions)
    exact = 40.0 + 12.0 * rng.standard_normal((n_images.size, n_directions))
    noise = 2e-14 * rng.standard_normal(shape) / step[:, None] ** 2
    difference = exact[:, None] + 4e3 * step[:, None] ** 2 + noise
    if activation == "relu":
        crossed = 400.0 * np.sqrt(n_images / 100)[:, None, None]  # fewer kinks, more scatter
        difference += 0.7 * exact[:, None] * rng.gamma(crossed / 100, 100 / crossed, shape)
    dataset = xr.Dataset(
        {
            "difference": (("n_images", "step", "direction"), difference),
            "exact": (("n_images", "direction"), exact),
        },
        coords={"n_images": n_images, "step": step},
        attrs={"activation": activation},
    )
    if activation == "relu":
        sharpness = np.geomspace(1.0, 1e4, 12)
        grown = 0.95 + 0.75 / (1 + (20.0 / sharpness[:, None]) ** 1.5)
        softplus = exact[-1] * grown + rng.standard_normal((sharpness.size, n_directions))
        dataset["softplus"] = (("sharpness", "direction"), softplus)
        dataset = dataset.assign_coords(sharpness=sharpness)
    return dataset


def spectrum(
    n_parameters: int = 2_000, n_probes: int = 4, n_nodes: int = 60, seed: int = 0
) -> xr.Dataset:
    """R/networks/{network}/spectrum.nc: quadrature nodes with random weights of unit sum."""
    rng = np.random.default_rng(seed + 2)
    values = eigenvalues(n_parameters, seed)
    nodes = np.empty((n_probes, n_nodes))
    weights = np.empty((n_probes, n_nodes))
    ends = 6
    for probe in range(n_probes):
        w = rng.standard_normal(n_parameters) ** 2
        w /= w.sum()
        groups = np.array_split(np.arange(ends, n_parameters - ends), n_nodes - 2 * ends)
        parts = (
            [np.array([i]) for i in range(ends)]
            + groups
            + [np.array([i]) for i in range(n_parameters - ends, n_parameters)]
        )
        weights[probe] = [w[part].sum() for part in parts]
        nodes[probe] = [np.average(values[part], weights=w[part]) for part in parts]
    f = np.linalg.norm(values)
    return xr.Dataset(
        {
            "nodes": (("probe", "node"), nodes),
            "weights": (("probe", "node"), weights),
            "frobenius_norm": ((), f),
            "frobenius_standard_error": ((), 0.02 * f),
            "trace": ((), values.sum()),
            "trace_standard_error": ((), f * np.sqrt(2 / n_probes)),
            "n_parameters": ((), n_parameters),
        }
    )


def surface(
    plane: str = "random",
    split: str = "train",
    n_grid: int = 31,
    n_parameters: int = 2_000,
    seed: int = 0,
) -> xr.Dataset:
    """R/networks/{network}/surfaces/{plane}_{split}.nc: a bowl (random), a saddle (hessian)."""
    rng = np.random.default_rng(seed + (split == "test"))
    values = eigenvalues(n_parameters, seed)
    length = np.sqrt(n_parameters) if plane == "random" else 1.0
    axis = np.linspace(-1.0, 1.0, n_grid)
    coordinate = axis * (1.0 / length)
    a, b = np.meshgrid(axis, axis, indexing="ij")  # parameter-space length
    if plane == "random":
        m = _projected(values, 1, rng)[0] / n_parameters
        slope = 0.05
    else:
        m = np.diag([values[-1], 0.0])
        slope = 0.0
    base = 2e-3 + (0.1 if split == "test" else 0.0)
    bowl = 0.5 * (m[0, 0] * a**2 + 2 * m[0, 1] * a * b + m[1, 1] * b**2)
    loss = base + np.abs(bowl) / (1 + 0.1 * np.abs(bowl)) + slope * base * (a - b)
    if plane == "hessian":  # a loss falls by no more than itself
        loss -= 0.6 * base * (1 - np.exp(-3 * (b - 0.1) ** 2)) * np.exp(-4 * a**2)
    lowest = np.unravel_index(np.argmin(loss), loss.shape)
    origin = n_grid // 2
    array = xr.DataArray(
        loss,
        dims=("alpha", "beta"),
        coords={"alpha": coordinate, "beta": coordinate},
        name="loss",
        attrs={
            "length_alpha": length,
            "length_beta": length,
            "normalisation": "gaussian" if plane == "random" else "unit",
            "loss_at_origin": loss[origin, origin],
            "lowest_alpha": coordinate[lowest[0]],
            "lowest_beta": coordinate[lowest[1]],
            "lowest_loss": loss[lowest],
        },
    )
    return array.to_dataset()


def surfaces(n_grid: int = 31, seed: int = 0) -> dict[str, xr.Dataset]:
    """The four surfaces of one network, by "{plane}_{split}"."""
    return {
        f"{plane}_{split}": surface(plane, split, n_grid, seed=seed)
        for plane in ("random", "hessian")
        for split in ("train", "test")
    }


def profiles(n_parameters: int = 2_000, n_points: int = 81, seed: int = 0) -> xr.Dataset:
    """R/networks/{network}/profiles.nc."""
    values = eigenvalues(n_parameters, seed)
    names = ["random_0", "random_1", "smallest", "largest"]
    mean = values.mean()
    curvature = np.array([0.7 * mean, 1.4 * mean, values[0], values[-1]])
    distance = np.linspace(-1.0, 1.0, n_points)
    quadratic = 0.5 * curvature[:, None] * distance**2
    loss = 0.6 + quadratic / (1 + 2 * np.abs(quadratic)) + 0.01 * distance + 0.05 * distance**4
    return xr.Dataset(
        {
            "loss": (("direction", "distance"), loss),
            "slope": ("direction", np.full(4, 0.01)),
            "curvature": ("direction", curvature),
        },
        coords={"direction": names, "distance": distance},
    )


def projections(n_samples: int = 400, n_parameters: int = 2_000, seed: int = 0) -> xr.Dataset:
    """R/networks/{network}/projections.nc."""
    rng = np.random.default_rng(seed + 3)
    values = eigenvalues(n_parameters, seed)
    projected = np.concatenate([_projected(values, 50, rng) for _ in range(-(-n_samples // 50))])
    projected = projected[:n_samples]
    seen = _shows_saddle(projected).mean()
    low, high = _wilson(seen * n_samples, n_samples)
    spectrum_seen = min(1.0, seen * 1.1 + 1e-3)
    levels = np.concatenate([np.geomspace(1e-4, 0.1, 61), np.linspace(0.11, 1.0, 90)])
    r = values.sum() / np.linalg.norm(values)
    scalars = {
        "visibility_direct": seen,
        "visibility_direct_low": low,
        "visibility_direct_high": high,
        "visibility_spectrum": spectrum_seen,
        "visibility_spectrum_low": 0.9 * spectrum_seen,
        "visibility_spectrum_high": min(1.0, 1.1 * spectrum_seen),
        "visibility_formula": np.exp(-(r**2) / 4) / np.sqrt(2),
        "trace": values.sum(),
        "trace_standard_error": 0.01 * np.linalg.norm(values),
        "frobenius_norm": np.linalg.norm(values),
        "frobenius_standard_error": 0.01 * np.linalg.norm(values),
        "r": r,
        "third_moment": np.sum(np.abs(values) ** 3) / np.linalg.norm(values) ** 3,
        "tail": r * np.abs(values).max() / np.linalg.norm(values),
        "lowest_twentieth": 0.04,
        "lowest_twentieth_low": 0.02,
        "lowest_twentieth_high": 0.06,
    }
    return xr.Dataset(
        {
            "projected_hessian": (("sample", "row", "column"), projected),
            "spectrum_quantile": ("level", _smallest_quantiles(values, levels)),
        }
        | {name: ((), value) for name, value in scalars.items()},
        coords={"level": levels},
        attrs={"reference_kind": "deflated Rademacher"},
    )


def localisation(n_pairs: int = 2, seed: int = 0) -> xr.Dataset:
    """R/networks/{network}/localisation.nc."""
    rng = np.random.default_rng(seed + 8)
    layers = ["conv", "norm", "block.conv", "head"]
    kinds = {"conv": "convolution", "norm": "normalisation", "head": "classifier"}
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    kind = [kinds[name.split(".")[-2]] for name in names]
    kind = [k if "weight" in n or k == "normalisation" else "bias" for k, n in zip(kind, names)]
    return xr.Dataset(
        {
            "share": (("pair", "parameter"), rng.dirichlet(np.ones(len(names)), n_pairs)),
            "inverse_participation_ratio": ("pair", rng.uniform(0.001, 0.1, n_pairs)),
        },
        coords={
            "parameter": names,
            "size": ("parameter", rng.integers(1, 900, len(names))),
            "layer": ("parameter", [name.rpartition(".")[0] for name in names]),
            "kind": ("parameter", kind),
        },
    )


def results(seed: int = 0) -> Results:
    """All that the page of one network is made from."""
    return Results(
        label=f"Network {seed}",
        measurements=measurements(seed=seed),
        eigenpairs=eigenpairs(n_each=1, seed=seed),
        trace=projections(50, seed=seed),
        spectrum=spectrum(seed=seed),
        surfaces=surfaces(11, seed=seed),
        lines=profiles(seed=seed),
        projections=projections(50, seed=seed),
        localisation=localisation(seed=seed),
        settings={"seed": seed, "precision": "float32"},
    )


def planes(n_planes: int = 24, seed: int = 0) -> xr.Dataset:
    """R/networks/{network}/planes.nc: lowest losses at equal grids and equal radii."""
    rng = np.random.default_rng(seed + 4)
    origin = 2.2e-3
    gain = np.where(rng.random(n_planes) < 0.3, 0.0, rng.exponential(0.01, n_planes))
    distance = np.where(gain > 0, rng.uniform(0.05, 0.2, n_planes), 0.0)
    scalars = {
        "hessian_lowest_loss": origin * rng.uniform(0.3, 0.8),
        "hessian_lowest_distance": 0.8,
        "loss_at_origin": origin,
        "radius": 1.0,
        "n_points": 31,
    }
    return xr.Dataset(
        {"lowest_loss": ("plane", origin * (1 - gain)), "lowest_distance": ("plane", distance)}
        | {name: ((), value) for name, value in scalars.items()}
    )


def trajectory(n_epochs: int = 30, n_grid: int = 31, seed: int = 0) -> xr.Dataset:
    """R/networks/{network}/trajectory.nc."""
    rng = np.random.default_rng(seed + 5)
    epoch = np.unique(np.rint(np.geomspace(1, n_epochs + 1, 18)).astype(int)) - 1
    s = epoch / n_epochs
    alpha = 1.4 * (1 - s) * np.cos(3 * s)
    beta = 2.2 * (1 - s) ** 1.5
    alpha[-1] = beta[-1] = 0.0
    grid = np.linspace(-2.5, 2.5, n_grid)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    largest = 20 * s * np.exp(-s) + 2
    smallest = -3 * np.exp(-4 * s) - 0.4
    trace = 60 * s * np.exp(-1.5 * s) + 5
    return xr.Dataset(
        {
            "loss": ("epoch", 2.3 * np.exp(-6 * s)),
            "test_loss": ("epoch", 2.3 * np.exp(-4 * s) + 0.12),
            "gradient_norm": ("epoch", 2.0 * np.exp(-3 * s) * rng.uniform(0.8, 1.2, s.size)),
            "largest": ("epoch", largest),
            "largest_residual": ("epoch", 1e-3 * largest),
            "smallest": ("epoch", smallest),
            "smallest_residual": ("epoch", -1e-3 * smallest),
            "trace": ("epoch", trace),
            "trace_standard_error": ("epoch", 0.06 * trace),
            "alpha": ("epoch", alpha),
            "beta": ("epoch", beta),
            "loss_surface": (
                ("alpha_grid", "beta_grid"),
                0.01
                + 1.2 * a**2 / (1 + 0.2 * a**2)
                + 0.3 * np.logaddexp(0, 2 * b - 1) / (1 + a**2),
            ),
        },
        coords={"epoch": epoch, "alpha_grid": grid, "beta_grid": grid},
    )


def population(n_members: int = 36, strength: float = 1.0, seed: int = 0) -> xr.Dataset:
    """R/population.nc; the gap follows the trace with the given strength (0: no relation)."""
    rng = np.random.default_rng(seed + 6)
    member = np.arange(n_members)
    factors = {
        "batch_size": np.array([16.0, 64.0, 256.0])[member % 3],
        "learning_rate": np.array([0.02, 0.1])[member // 3 % 2],
        "label_noise": np.array([0.0, 0.1])[member // 6 % 2],
        "weight_decay": np.zeros(n_members),
        "width": np.array([8.0, 16.0])[member // 12 % 2],
        "seed": (member // 24).astype(float),
    }
    trace = np.exp(
        2.5
        + 0.4 * np.log2(factors["batch_size"] / 16)
        - 3 * factors["learning_rate"]
        + 0.3 * rng.standard_normal(n_members)
    )
    gap = 0.1 * (trace / trace.mean()) ** strength * np.exp(0.3 * rng.standard_normal(n_members))
    gap += 0.3 * factors["label_noise"]
    n_parameters = 300 * factors["width"]
    largest = 0.3 * trace * np.exp(0.2 * rng.standard_normal(n_members))
    theta_norm = 15 + 3 * rng.standard_normal(n_members)
    train_loss = np.full(n_members, 0.02)
    columns = factors | {
        "train_loss": train_loss,
        "test_loss": train_loss + gap,
        "gap_loss": gap,
        "train_accuracy": np.full(n_members, 0.998),
        "test_accuracy": 0.998 - 0.2 * gap,
        "gap_accuracy": 0.2 * gap,
        "epochs": np.full(n_members, 60.0),
        "n_parameters": n_parameters,
        "theta_norm": theta_norm,
        "gradient_norm": np.exp(-3 + 0.5 * rng.standard_normal(n_members)),
        "trace": trace,
        "trace_standard_error": 0.05 * trace,
        "mean_curvature": trace / n_parameters,
        "largest": largest,
        "smallest": -0.05 * largest * rng.uniform(0.5, 2, n_members),
        "largest_residual": 1e-3 * largest,
        "smallest_residual": 1e-4 * largest,
        "frobenius_norm": 1.5 * largest,
        "trace_scaled": trace * theta_norm**2 / n_parameters,
        "largest_scaled": largest * theta_norm**2,
    }
    dataset = xr.Dataset({name: ("member", value) for name, value in columns.items()})
    dataset["reached"] = ("member", member % 11 != 10)
    dataset["number"] = ("member", member)
    varied = {name: np.unique(values).tolist() for name, values in factors.items()}
    dataset.attrs["provenance"] = json.dumps({"configuration": {"settings": {"factors": varied}}})

    generalizations = ("gap_loss", "gap_accuracy")
    kendall = np.empty((3, len(MEASURES), 2))
    for i, measure in enumerate(MEASURES):
        for j, generalization in enumerate(generalizations):
            x, y = columns[measure], columns[generalization]
            interval = bootstrap(
                (x, y),
                lambda x, y: kendalltau(x, y).statistic,
                paired=True,
                vectorized=False,
                n_resamples=50,
                method="percentile",
                rng=np.random.default_rng(seed),
            ).confidence_interval
            kendall[:, i, j] = kendalltau(x, y).statistic, interval.low, interval.high
    dims = ("measure", "generalization")
    scale = np.geomspace(0.1, 10, 9)
    return dataset.assign(
        kendall=(dims, kendall[0]),
        kendall_low=(dims, kendall[1]),
        kendall_high=(dims, kendall[2]),
        granulated=(dims, 0.6 * kendall[0]),
        granulated_low=(dims, 0.6 * kendall[0] - 0.2),
        granulated_high=(dims, 0.6 * kendall[0] + 0.2),
        rescaled_trace=("scale", 20 * scale**2 + 8 / scale**2),
        rescaled_largest=("scale", 6 * scale**2 + 2 / scale**2),
        rescaled_loss=("scale", np.full(scale.size, 0.0218)),
    ).assign_coords(measure=list(MEASURES), generalization=list(generalizations), scale=scale)


def passes(n_parameters: int = 2_000, exponents: tuple[float, float] = (1.0, 1.0)) -> dict:
    """R/networks/<network>/passes.run.json, as far as it is drawn: power laws in N and n."""
    along_parameters, along_images = exponents
    return {
        "rule": "time_passes",
        "n_parameters": n_parameters,
        "seconds": {
            kind: {
                str(n): factor * n_parameters**along_parameters * n**along_images
                for n in (10, 20, 50)
            }
            for kind, factor in FORWARDS_OF_PASSES.items()
        },
    }


def image_counts(n_parameters: int = 2_000, seed: int = 0) -> xr.Dataset:
    """R/networks/<network>/image_counts/*.nc, joined: sharp values fall with the number of images."""
    rng = np.random.default_rng(seed)
    n_images = np.array([50, 100, 200])
    scale = rng.uniform(0.9, 1.1, 3) * np.sqrt(50 / n_images)
    values = {
        "n_images": n_images,
        "n_parameters": np.full(3, n_parameters),
        "n_products": np.full(3, 20),
        "loss": 0.01 * scale,
        "gradient_norm": 0.1 * scale,
        "largest": 20 * scale,
        "largest_residual": 0.1 * scale,
        "smallest": -8 * scale,
        "smallest_residual": 0.05 * scale,
        "trace": 40 * scale,
        "trace_standard_error": 2 * scale,
    }
    return xr.Dataset({name: ("count", array) for name, array in values.items()})
