"""Critical points of networks with one hidden layer.

`settings` are those of the analysis `critical_points`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from hessian_directions import seeds
from hessian_directions.analyses.job import Job
from hessian_directions.data.function import f
from hessian_directions.errors import NonFiniteError
from hessian_directions.geometry import critical_points, discs, slices, visibility
from hessian_directions.geometry.critical_points import CriticalPoint
from hessian_directions.geometry.directions import gaussian
from hessian_directions.geometry.principal_curvatures import principal_curvatures, shows_saddle
from hessian_directions.geometry.quadratic_fit import polar_points
from hessian_directions.models.activations import activation as make_activation
from hessian_directions.models.mlp import mlp
from hessian_directions.objectives.losses import mean_squared_error
from hessian_directions.objectives.objective import Objective
from hessian_directions.statistics.proportions import clopper_pearson
from hessian_directions.traces.finite_differences import loss_noise

Floats = NDArray[np.float64]

# Planes are not made smaller than for changes by this part of the loss: there is its rounding.
SMALLEST_RISE = 1e-9
# A unit whose slope, or the change of it, is smaller is idle.
IDLE = 1e-4
# Discs in which lower losses are searched: radii over the length at which the larger of the extreme
# curvatures alone would change the loss by itself, √(2L/|λ|); points of a ring.
DISCS, N_ANGLES = (0.01, 0.1, 1.0), 8
# Points whose losses agree to this are one point, its units permuted or their signs changed.
SAME_LOSS = 1e-7

OUTCOMES = ("critical", "idle unit", "stationary", "escaping", "unfinished")


@dataclass(frozen=True)
class Point:
    """A critical point of a network with one hidden layer.

    Attributes:
        activation, width: Of the hidden layer.
        weights: (3·width + 1,) input weights, biases, output weights, output bias.
        layers: Which of them are trained, and make up θ: "all", or "first layer".
        origin: "searched", or "embedded" from a narrower network.
        scatter: Of the shares, for an embedded one.
        end: Hessian and spectrum.
        loss: L(θ*).
    """

    activation: str
    width: int
    weights: Floats
    layers: str
    origin: str
    scatter: float
    end: CriticalPoint
    loss: float


def study(settings: Any, job: Job) -> xr.Dataset:
    """What `critical_points.run` returns."""
    seed = seeds.derive(job.seed, "critical points")
    points: list[Point] = []
    outcomes = np.zeros((len(settings.activations), len(settings.widths), len(OUTCOMES)), int)
    for i, activation in enumerate(settings.activations):
        distinct: list[Point] = []
        for j, width in enumerate(settings.widths):
            job.announce(f"critical points of {width} units, {activation}")
            for outcome, point in _searched(settings, seed, activation, width):
                outcomes[i, j, OUTCOMES.index(outcome)] += 1
                gaps = [abs(other.loss - point.loss) for other in distinct]
                if outcome == "critical" and min(gaps, default=1.0) > SAME_LOSS:
                    distinct.append(point)
        points += distinct
        # Those of most units first: they have most to share out.
        for base in sorted(distinct, key=lambda point: -point.width)[: settings.n_embedded]:
            points += _embedded(settings, seed, base)
    if not points:
        raise ValueError("no search ended at a critical point: more starts are needed.")
    rows = []
    for number, point in enumerate(points):
        job.announce(f"visibility of critical point {number + 1} of {len(points)}")
        rows.append(_described(point) | _visibility(settings, seed, number, point))
    shown = _least_visible(points, [row["visibility_sampled"] for row in rows])
    found = xr.Dataset(
        {name: ("point", [row[name] for row in rows]) for name in rows[0]}
        | {"outcomes": (("activation", "width", "outcome"), outcomes), "shown": shown}
    )
    projections = _projections(settings, seed, points)
    job.announce("lower losses around critical points")
    lowest = _lowest_losses(settings, seed, points)
    job.announce("slices of a saddle")
    surfaces = _slices(settings, seed, points[shown])
    return xr.merge([_spectra(points), found, projections, lowest, surfaces]).assign_coords(
        activation=list(settings.activations), width=list(settings.widths), outcome=list(OUTCOMES)
    )


def objective_of(
    n_data: int, activation: str, weights: Floats, layers: str = "all", seed: int = 0
) -> Objective:
    """The mean squared error of a network with one hidden layer.

    Args:
        n_data: Training points x, uniform on [−1, 1), at which f(x) is learned.
        weights: (3·width + 1,) as in `Point`.
        layers: "first layer" holds the output weights and bias constant; "all" trains them too.
        seed: Of the data.
    """
    x, width = _inputs(n_data, seed), len(weights) // 3
    model = mlp(input_shape=(1,), n_outputs=1, width=width, hidden_layers=1, activation=activation)
    torch.nn.utils.vector_to_parameters(torch.as_tensor(weights), model.double().parameters())
    return Objective(
        model,
        mean_squared_error,
        x,
        f(x),
        batch_size=n_data,
        vectors_at_once=512,  # a dense Hessian in one pass
        parameters=None if layers == "all" else ["1.weight", "1.bias"],
    )


def _searched(settings: Any, seed: int, activation: str, width: int) -> Iterator[tuple[str, Point]]:
    """The outcome of each search, and where it ended."""
    random = np.random.default_rng(seeds.derive(seed, "starts", activation, width))
    n = 3 * width + 1
    objective = objective_of(settings.n_data, activation, random.standard_normal(n), seed=seed)

    def value_and_gradient(theta: Floats) -> tuple[float, Floats]:
        at = torch.from_numpy(theta)
        try:
            return float(objective.value(at)), objective.gradient(at).numpy()
        except NonFiniteError:  # of a trial step that leads too far
            return critical_points.FAR, np.zeros_like(theta)

    for number in range(settings.n_starts):
        scale = settings.scales[number % len(settings.scales)]
        start = random.standard_normal(n)
        start[: 2 * width] *= scale
        start[2 * width :] /= scale
        descent = int(random.integers(settings.max_descent + 1))
        if number % 2 and descent:
            start = optimize.minimize(
                value_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": descent}
            ).x
        end = critical_points.find(objective, start, settings.tolerance)
        outcome: str = end.outcome
        if outcome == "critical" and _has_idle_unit(settings, seed, activation, end.theta):
            outcome = "idle unit"
        loss = float(objective.value(torch.from_numpy(end.theta)))
        yield outcome, Point(activation, width, end.theta, "all", "searched", 0.0, end, loss)


def _has_idle_unit(settings: Any, seed: int, activation: str, theta: Floats) -> bool:
    """Whether a hidden unit is flat, or straight, on all data but two.

    A flat unit has died or saturated: it is constant, or a step between two of the data, and its two
    input parameters are not determined, or only by what rounding leaves of its slope. A straight one
    does not determine its output weight: it is the end of a path to infinity, or of a linear unit.
    """
    width = len(theta) // 3
    weight, bias = torch.from_numpy(theta[:width]), torch.from_numpy(theta[width : 2 * width])
    inner = (_inputs(settings.n_data, seed) * weight + bias).requires_grad_()
    value = make_activation(activation)(inner).sum()
    (slope,) = torch.autograd.grad(value, inner, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), inner)
    third = min(3, settings.n_data) - 1
    changes = ((slope.detach() * weight).abs(), (bend * weight**2).abs())
    return any(float(change.sort(0, True).values[third].min()) < IDLE for change in changes)


def _inputs(n_data: int, seed: int) -> Tensor:
    """Training points x, uniform on [−1, 1): (n_data, 1), float64."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(n_data, 1, generator=generator, dtype=torch.float64) - 1


def _embedded(settings: Any, seed: int, base: Point) -> Iterator[Point]:
    """Critical points of wide networks: copies of each unit that share its output weight.

    The outputs are those of the narrow network. So are the derivatives with respect to a copy's
    weights, times its share: they vanish, whatever the shares, if these add up to one.
    """
    width = base.width
    weight, bias, output = (base.weights[i * width : (i + 1) * width] for i in range(3))
    for wide in (wide for wide in settings.wide if wide >= width):
        copies = [wide // width + (unit < wide % width) for unit in range(width)]
        for scatter in settings.scatters:
            names = ("shares", base.activation, f"{base.loss:.6f}", wide, str(scatter))
            random = np.random.default_rng(seeds.derive(seed, *names))
            noise = [random.standard_normal(count) for count in copies]
            shares = [(1 + scatter * (one - one.mean())) / len(one) for one in noise]
            first_layer = np.repeat(weight, copies), np.repeat(bias, copies)
            outputs = np.repeat(output, copies) * np.concatenate(shares)
            weights = np.concatenate([*first_layer, outputs, base.weights[-1:]])
            # The first layer alone has the spectra that vary; everything trained, once of each point.
            everything = wide == min(settings.wide) and scatter == settings.scatters[0]
            for layers in ("first layer", "all") if everything else ("first layer",):
                at = objective_of(settings.n_data, base.activation, weights, layers, seed)
                end = critical_points.examine(at, at.theta.numpy(), settings.tolerance)
                if end.outcome == "critical":
                    yield Point(
                        base.activation, wide, weights, layers, "embedded", scatter, end, base.loss
                    )


def _described(point: Point) -> dict[str, Any]:
    """What the point is, as a row of the dataset."""
    values, end = point.end.eigenvalues, point.end
    trace, frobenius = float(values.sum()), float(np.linalg.norm(values))
    return {
        "hidden_activation": point.activation,
        "hidden_units": point.width,
        "layers": point.layers,
        "origin": point.origin,
        "scatter": point.scatter,
        "n_parameters": len(values),
        "loss": point.loss,
        "gradient_norm": end.gradient_norm,
        "step_norm": float(np.linalg.norm(end.step)),
        "index": end.index,
        "n_zero": end.n_zero,
        "zero_tolerance": end.tolerance,
        "smallest": float(values[0]),
        "largest": float(values[-1]),
        "trace": trace,
        "frobenius_norm": frobenius,
        "r": trace / frobenius,
    }


def _visibility(settings: Any, seed: int, number: int, point: Point) -> dict[str, float]:
    """How often random slices show the saddle: drawn from its whole spectrum, and by formula."""
    values = point.end.eigenvalues
    largest = np.abs(values).max()
    # Copies of a unit have equal eigenvalues but for rounding; equal ones are drawn together.
    equal = np.where(np.abs(values) <= point.end.tolerance, 0.0, np.round(values / largest, 11))
    matrices = visibility.sample_from_spectrum(
        equal, 0.0, 0.0, settings.n_spectrum_samples, seeds.generator(seed, "planes", number)
    )
    seen = int(shows_saddle(matrices).sum())
    low, high = clopper_pearson(seen, len(matrices))
    formula = visibility.formula(values)
    return {
        "visibility_sampled": seen / len(matrices),
        "visibility_low": low,
        "visibility_high": high,
        "visibility_formula": formula.probability,
        "visibility_corrected": formula.corrected,
        "condition": formula.condition,
        "third_moment": formula.third_moment,
    }


def _projections(settings: Any, seed: int, points: list[Point]) -> xr.Dataset:
    """Directly sampled slices of each point: M = [η δ]'H[η δ] for Gaussian η, δ."""
    matrices, rows = [], []
    for number, point in enumerate(points):
        H = torch.from_numpy(point.end.hessian)
        generator = seeds.generator(seed, "projections", number)
        M = visibility.sample_projections(H, settings.n_planes, generator, chunk=50)
        smaller, larger = principal_curvatures(M)
        # What is zero but for rounding has no sign: directions have length √N.
        zero = len(point.end.eigenvalues) * point.end.tolerance
        seen = int(((smaller < -zero) & (larger > zero)).sum())
        low, high = clopper_pearson(seen, len(M))
        curvatures = np.diagonal(M, axis1=1, axis2=2).ravel()
        matrices.append(M)
        rows.append(
            {
                "visibility_direct": seen / len(M),
                "visibility_direct_low": low,
                "visibility_direct_high": high,
                "curvature_mean": curvatures.mean(),
                "curvature_standard_error": curvatures.std(ddof=1) / np.sqrt(curvatures.size),
            }
        )
    return xr.Dataset(
        {"projected_hessian": (("point", "sample", "row", "column"), np.array(matrices))}
        | {name: ("point", [row[name] for row in rows]) for name in rows[0]}
    )


def _lowest_losses(settings: Any, seed: int, points: list[Point]) -> xr.Dataset:
    """The lowest losses over discs in random planes and in the Hessian plane, as of `lowest_losses`.

    - lowest_loss (point, sample, disc): over planes of two Gaussian directions;
    - hessian_lowest_loss (point, disc): over the plane of the eigenvectors of λ_max and λ_min;
    - radius (point, disc): a length in parameter space, see `DISCS`;
    - noise (point): standard deviation of the loss's rounding errors.
    """
    rows = []
    for number, point in enumerate(points):
        at = objective_of(settings.n_data, point.activation, point.weights, point.layers, seed)
        generator = seeds.generator(seed, "discs", number)
        vectors = torch.from_numpy(np.linalg.eigh(point.end.hessian)[1])
        planes = [discs.random_plane(at, generator) for _ in range(settings.n_planes)]
        radii = np.sqrt(2 * point.loss / np.abs(point.end.eigenvalues).max()) * np.array(DISCS)
        points_of_rings = torch.tensor(np.array(polar_points(radii, N_ANGLES))).flatten(1)
        steps = torch.cat([plane @ points_of_rings for plane in (*planes, vectors[:, [-1, 0]])], 1)
        losses = slices.finite_values(at, at.theta[:, None] + steps)[:, 0]
        lowest = discs.lowest_in_discs(losses.reshape(-1, len(DISCS), N_ANGLES), point.loss)
        rows.append((radii, lowest[:-1], lowest[-1], loss_noise(at, vectors[:, -1])))
    radius, random, hessian, noise = (np.array(column) for column in zip(*rows, strict=True))
    return xr.Dataset(
        {
            "radius": (("point", "disc"), radius),
            "lowest_loss": (("point", "sample", "disc"), random),
            "hessian_lowest_loss": (("point", "disc"), hessian),
            "noise": ("point", noise),
        }
    )


def _spectra(points: list[Point]) -> xr.Dataset:
    """All eigenvalues of each point, ascending; NaN after its last."""
    spectra = np.full((len(points), max(len(point.end.eigenvalues) for point in points)), np.nan)
    for spectrum, point in zip(spectra, points):
        spectrum[: len(point.end.eigenvalues)] = point.end.eigenvalues
    return xr.Dataset({"eigenvalue": (("point", "eigenvalue_number"), spectra)})


def _least_visible(points: list[Point], visibility: list[float]) -> int:
    """The saddle that random slices show least often, of several the one of most balanced curvatures.

    Without any saddle the first point.
    """

    def suits(number: int) -> tuple[bool, float, float]:
        end = points[number].end
        values = end.eigenvalues
        is_saddle = 0 < end.index < len(values) - end.n_zero
        sides = sorted([abs(values[0]), abs(values[-1])])
        return is_saddle, -visibility[number], sides[0] / max(sides[1], 1e-300)

    return max(range(len(points)), key=suits)


def _slices(settings: Any, seed: int, point: Point) -> xr.Dataset:
    """L − L(θ*) over a plane of two random directions and over that of the Hessian directions.

    Directions have length one. Half-widths follow the curvature κ along them, t/N for random ones,
    as √(2·rise/|κ|): the quadratic part of the loss changes by ±rise up to the middle of each edge.
    The rise is halved until along Hessian directions the loss itself does so, to a third.
    """
    objective = objective_of(settings.n_data, point.activation, point.weights, point.layers, seed)
    values, vectors = np.linalg.eigh(point.end.hessian)
    n, trace, ends = len(values), float(values.sum()), values[[-1, 0]]
    random = gaussian(n, 2, seeds.generator(seed, "slices"), torch.float64)
    planes = {
        "random": (random / random.norm(dim=0), [trace / n, trace / n]),
        "hessian": (torch.from_numpy(vectors[:, [-1, 0]].copy()), ends),
    }
    curvature = np.array([curvatures for _, curvatures in planes.values()])  # (plane, direction)

    def leaves_quadratic(rise: float) -> bool:
        """Whether the loss along a Hessian direction is a third off its quadratic part at the edge."""
        steps = planes["hessian"][0] * torch.from_numpy(np.sqrt(2 * rise / np.abs(ends)))
        edges = torch.cat([steps, -steps], 1) + objective.theta[:, None]
        change = objective.values(edges).numpy() - point.loss
        quadratic = rise * np.tile(np.sign(ends), 2)
        return bool((np.abs(change - quadratic) > rise / 3).any())

    rise = settings.rise
    while leaves_quadratic(rise) and rise > SMALLEST_RISE * point.loss:
        rise /= 2
    half_widths = np.sqrt(2 * rise / np.abs(curvature))
    surfaces = []
    for (directions, _), widths in zip(planes.values(), half_widths):
        alpha, beta = (slices.grid(width, settings.n_points) for width in widths)
        surface = slices.surface(objective, directions, alpha, beta, "unit").values
        surfaces.append(surface - point.loss)
    return xr.Dataset(
        {
            "surface": (("plane", "alpha", "beta"), np.array(surfaces)),
            "half_width": (("plane", "direction"), half_widths),
        },
        coords={
            "plane": list(planes),
            "alpha": slices.grid(1.0, settings.n_points),
            "beta": slices.grid(1.0, settings.n_points),
        },
    )
