"""The paper's claims: their sentences, the rules that judge them, and what the rules measure.

Two wordings of the abstract are public: that of the preprint (arXiv 2208.13219, 2022) and that of
the article (J. Stat. Mech. 2024). Where they differ, each has its claim. Thresholds stand in
config/claims.yaml; which of them followed data is said in the paper.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

import numpy as np
import xarray as xr

from hessian_directions.geometry.quadratic_fit import QuadraticFit, fit_surface, surface_axes
from hessian_directions.reporting import population_rules
from hessian_directions.reporting.verdicts import Claim, Declared, Row, Rows, Rule
from hessian_directions.statistics import intervals, rank_correlation
from hessian_directions.statistics.departure import median_interval
from hessian_directions.statistics.intervals import Interval, IntervalAt
from hessian_directions.statistics.proportions import TIE, as_low

False_ = Callable[[np.random.Generator], IntervalAt]

PREPRINT, ARTICLE, BOTH = "2022", "2024", "2022 and 2024"

CLAIMS = {
    "C1a": Claim(
        "The expected curvature of a random projection is the trace of the Hessian",
        "the expected curvature in a lower-dimensional representation is proportional to the mean "
        "curvature in the original loss space",
        PREPRINT,
        theorem=True,
    ),
    "C1b": Claim("Random slices as they are drawn show the mean curvature"),
    "C2": Claim(
        "The sign of the mean curvature decides what a saddle looks like on average",
        "the mean curvature in the original loss space determines if saddle points appear, on "
        "average, as either minima, maxima, or almost flat regions",
        BOTH,
        theorem=True,
    ),
    "C3a": Claim(
        "The expected random projection of a saddle shows no saddle",
        "saddle points in the original space are rarely correctly identified as such in expected "
        "lower-dimensional representations if random projections are used",
        ARTICLE,
        theorem=True,
    ),
    "C3b": Claim(
        "Single random projections rarely show a saddle",
        "saddle points in the original space are rarely correctly identified as such in "
        "lower-dimensional representations if random projections are used",
        PREPRINT,
    ),
    "C4a": Claim(
        "Second directional derivatives estimate the trace without Hessian-vector products",
        "to compute Hutchinson-type trace estimates without calculating Hessian-vector products",
        BOTH,
        theorem=True,
    ),
    "C4b": Claim(
        "Differences of the loss estimate the trace of smooth networks",
        "to estimate the trace of Hessians without calculating the Hessian or Hessian-vector "
        "products as in Hutchinson's method",
        PREPRINT,
    ),
    "C4c": Claim(
        "Differences of the loss estimate the trace of ReLU networks",
        "to estimate the trace of Hessians without calculating the Hessian or Hessian-vector "
        "products as in Hutchinson's method",
        PREPRINT,
    ),
    "C4d": Claim("Differences of the loss corrected for kinks estimate the trace of ReLU networks"),
    "C5": Claim(
        "Slices along the extreme Hessian directions show the saddle",
        "we propose to study projections along Hessian directions that are associated with the "
        "largest and smallest principal curvatures",
        PREPRINT,
    ),
    "C6a": Claim(
        "Flatness in random projections says little about generalization",
        "we connect our findings to the ongoing debate on loss landscape flatness and "
        "generalizability",
        BOTH,
    ),
    "C6b": Claim("Random projections hide large curvatures of both signs"),
    "C7": Claim(
        "The method works for image classifiers of up to about 7·10⁶ parameters",
        "numerical experiments on different image classifiers with up to about 7×10⁶ parameters",
        PREPRINT,
    ),
    "C8a": Claim(
        "Along Hessian directions points of lower loss are found that random projections miss"
    ),
    "C8b": Claim(
        "Around saddles Hessian directions lead to points of lower loss that random projections miss"
    ),
}


@dataclass(frozen=True)
class Evidence:
    """The artifacts of a profile; each mapping is keyed by network."""

    saddles: xr.Dataset
    saddle_traces: xr.Dataset
    population: xr.Dataset
    critical_points: xr.Dataset | None = None
    scores: Mapping[str, xr.Dataset] = field(default_factory=dict)
    eigenpairs: Mapping[str, xr.Dataset] = field(default_factory=dict)
    image_counts: Mapping[str, xr.Dataset] = field(default_factory=dict)
    visibility: Mapping[str, xr.Dataset] = field(default_factory=dict)
    apparent_curvature: Mapping[str, xr.Dataset] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, xr.Dataset]] = field(default_factory=dict)
    trace_estimators: Mapping[str, xr.Dataset] = field(default_factory=dict)
    lowest_losses: Mapping[str, xr.Dataset] = field(default_factory=dict)


# What statistics are read from.


@dataclass(frozen=True)
class _Sampled:
    """Projected Hessians of one subject and its trace, known or estimated independently.

    All in units of the Hessian's Frobenius norm f.
    """

    subject: str
    matrices: np.ndarray  # (S, 2, 2)
    trace: float
    trace_error: float
    artifact: str

    @classmethod
    def read(cls, subject: str, dataset: xr.Dataset, artifact: str) -> "_Sampled":
        f = dataset["frobenius_norm"].values
        with np.errstate(divide="ignore", invalid="ignore"):
            matrices = dataset["projected_hessian"].values / f
            trace = dataset["trace"].values / f
            # Saddles whose spectrum is known have a trace without error.
            error = dataset.get("trace_standard_error", xr.DataArray(0.0)).values / f
        return cls(subject, matrices, trace, error, artifact)

    @property
    def curvatures(self) -> np.ndarray:  # (2S,) independent samples of η'Hη
        return np.concatenate([self.matrices[:, 0, 0], self.matrices[:, 1, 1]])

    @property
    def has_no_trace(self) -> bool:  # for certain
        return bool(self.trace == 0 and self.trace_error == 0)


def _sampled(evidence: Evidence) -> Iterator[_Sampled]:
    yield from _sampled_saddles(evidence)
    for network, dataset in evidence.visibility.items():
        yield _Sampled.read(network, dataset, f"networks/{network}/visibility.nc")


def _sampled_saddles(evidence: Evidence) -> Iterator[_Sampled]:
    """Synthetic saddles, and critical points of networks that are saddles."""
    for index, n_positive in enumerate(evidence.saddles["saddle"].values):
        dataset = evidence.saddles.isel(saddle=index)
        yield _Sampled.read(f"saddle ñ={n_positive}", dataset, "saddles.nc")
    for subject, dataset in _true_saddles(evidence):
        yield _Sampled.read(subject, dataset, "critical_points.nc")


def _true_saddles(evidence: Evidence) -> Iterator[tuple[str, xr.Dataset]]:
    """Critical points of networks that are saddles."""
    points = evidence.critical_points
    if points is not None:
        saddles = (points["index"] > 0) & (points["largest"] > points["zero_tolerance"])
        for number in np.flatnonzero(saddles).tolist():
            yield f"critical point {number}", points.isel(point=number)


def _saddle_networks(evidence: Evidence) -> Iterator[tuple[str, xr.Dataset, xr.Dataset]]:
    """Networks whose eigenvalues have both signs beyond residuals and noise, and their two ends."""
    for network, pairs in evidence.eigenpairs.items():
        smallest, largest = pairs.isel(pair=0), pairs.isel(pair=-1)
        both_signs = _bounds(smallest)[1] < 0 < _bounds(largest)[0]
        if both_signs and not smallest["below_noise"] and not largest["below_noise"]:
            yield network, smallest, largest


def _bounds(pair: xr.Dataset) -> Interval:
    """An eigenvalue, give or take the residual."""
    value, residual = float(pair["value"]), float(pair["residual"])
    return value - residual, value + residual


def _compared_traces(evidence: Evidence) -> Iterator[tuple[str, xr.Dataset, str]]:
    for index, n_positive in enumerate(evidence.saddle_traces["saddle"].values):
        saddle = evidence.saddle_traces.isel(saddle=index)
        yield f"saddle ñ={n_positive}", saddle, "saddle_traces.nc"
    for network, dataset in evidence.trace_estimators.items():
        yield network, dataset, f"networks/{network}/trace_estimators.nc"


# The statistics, one function per rule, whose name it has. Each states the world in which the claim is
# false. Thresholds stand in config/claims.yaml.

RULES: dict[str, dict[str, Declared]] = {claim: {} for claim in CLAIMS}


def _judges(claim: str, statistic: str, side: str, *, false: str) -> Callable[[Rows], Rows]:
    """List a function among the rules of a claim; arguments as in `Declared`."""

    def listed(rows: Rows) -> Rows:
        RULES[claim][rows.__name__] = Declared(statistic, side, rows, false)
        return rows

    return listed


@_judges(
    "C1a", "(mean(η'Hη) − t)/f", "inside", false="the mean curvature is off by twice the threshold"
)
def expected_curvature(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for one in _sampled(evidence):
        differences = one.curvatures - one.trace
        found = partial(intervals.mean, extra_variance=one.trace_error**2)
        false = _around(differences, 2 * rule["threshold"], found)
        yield Row(one.subject, differences.mean(), found(differences), one.artifact, false)


def _surely(interval: IntervalAt) -> False_:
    """Worlds that are all alike."""
    return lambda random: interval


def _around(values: np.ndarray, centre: float, found: Callable[[np.ndarray], IntervalAt]) -> False_:
    """Worlds in which values with this spread have another mean."""
    return lambda random: found(intervals.moved(values, centre, random))


@_judges(
    "C2",
    "sign(t)·mean(η'Hη)/f",
    "above",
    false="the mean curvature has the size of t/f and the other sign",
)
def apparent_sign(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for one in _sampled(evidence):
        if not one.has_no_trace:
            found = partial(_signed_interval, one)
            signed = np.sign(one.trace) * one.curvatures.mean()
            false = _around(one.curvatures, -one.trace, found)
            yield Row(one.subject, signed, found(one.curvatures), one.artifact, false)


def _signed_interval(one: _Sampled, curvatures: np.ndarray) -> IntervalAt:
    """The mean sampled curvature times the trace's sign: of either sign while that one is open."""
    mean_interval = intervals.mean(curvatures)

    def interval(confidence: float) -> Interval:
        ends = np.sign(one.trace) * np.array(mean_interval(confidence))
        if intervals.magnitude(one.trace, one.trace_error, confidence)[0] > 0:
            return ends.min(), ends.max()
        return -abs(ends).max(), abs(ends).max()

    return interval


@_judges(
    "C2", "mean(η'Hη)/f where t = 0", "inside", false="the mean curvature is twice the threshold"
)
def apparent_flatness(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    flat = {one.subject for one in _sampled(evidence) if one.has_no_trace}
    yield from (row for row in expected_curvature(evidence, rule) if row.subject in flat)


@_judges(
    "C3a",
    "κ₋κ₊/f² of the mean projected Hessian",
    "above",
    false="the mean projected Hessian is a saddle with curvatures ±0.7 f",
)
def expected_projection(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for one in _sampled(evidence):
        entries = one.matrices[:, [0, 1, 0], [0, 1, 1]].T  # (3, S)
        estimate, interval = _determinant(entries)
        yield Row(one.subject, estimate, interval, one.artifact, _visible_on_average(entries))


def _determinant(entries: np.ndarray) -> tuple[float, IntervalAt]:
    """κ₋κ₊ = ac − b² of the mean of (3, S) entries a, c, b, and its interval by the delta method."""
    n_samples = entries.shape[1]
    a, c, b = entries.mean(axis=1)
    slope = np.array([c, a, -2 * b])
    error = np.sqrt(slope @ np.cov(entries) @ slope / n_samples)
    return a * c - b * b, intervals.student(a * c - b * b, error, n_samples - 1)


# Curvatures ± this of an expected slice that shows a saddle: little more than half of what single
# slices of a saddle without mean curvature show on average, 1.25 f.
VISIBLE = 0.7  # [f]


def _visible_on_average(entries: np.ndarray) -> False_:
    """Worlds in which the mean matrix is a saddle."""
    centre = np.array([[VISIBLE], [-VISIBLE], [0.0]])
    centred = entries - entries.mean(axis=1, keepdims=True) + centre
    n_samples = entries.shape[1]
    return lambda random: _determinant(random.choice(centred, n_samples, axis=1))[1]


@_judges(
    "C3b",
    "share of random planes with κ₋ < 0 < κ₊",
    "below",
    false="twice the threshold's share of planes shows the saddle",
)
def single_projection(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    saddles = {one.subject for one in _sampled_saddles(evidence)}
    saddles |= {network for network, *_ in _saddle_networks(evidence)}
    for one in _sampled(evidence):
        if one.subject in saddles:
            # 1 where κ₋κ₊ < 0; NaN stays NaN.
            hits = np.heaviside(-np.linalg.det(one.matrices), 0.0)
            false = _shares(len(hits), 2 * rule["threshold"])
            yield Row(one.subject, hits.mean(), intervals.share(hits), one.artifact, false)


def _shares(n: int, probability: float) -> False_:
    """Worlds in which a hit has another probability."""
    return lambda random: intervals.share((random.random(n) < probability).astype(float))


def _relative_bias(
    statistic: str,
    estimator: str,
    reference: str,
    activation: str | None = None,
    in_place_of: str | None = None,
) -> Declared:
    """Mean difference of two estimators on the same directions, over |t|.

    Of subjects with this activation only, where one is given; and of those only for which the
    estimator that it stands in place of is off by more than the threshold: elsewhere doing nothing
    would pass.
    """

    def bias(traces: xr.Dataset, name: str) -> np.ndarray:
        both = traces.sel(estimator=[name, reference])
        values, exact = both["samples"].transpose("estimator", "sample").values
        n = int(both["n_samples"].min())  # what follows is padding
        return values[:n] - exact[:n]

    def rows(evidence: Evidence, rule: Rule) -> Iterator[Row]:
        for subject, traces, artifact in _compared_traces(evidence):
            t, error = float(traces["reference"]), float(traces["reference_standard_error"])
            if activation not in (None, traces.attrs["activation"]) or t == error == 0:
                continue  # a share of a trace that is zero says nothing
            if estimator not in traces["estimator"]:
                continue
            largest = rule["threshold"] * abs(t)
            if in_place_of is not None and abs(bias(traces, in_place_of).mean()) <= largest:
                continue
            differences = bias(traces, estimator)
            found = partial(_relative_mean, t, error)
            false = _around(differences, 2 * largest, found)
            relative = np.divide(differences.mean(), abs(t))
            yield Row(subject, relative, found(differences), artifact, false)

    return Declared(statistic, "inside", rows, "the bias is twice the threshold")


def _relative_mean(t: float, error: float, differences: np.ndarray) -> IntervalAt:
    return intervals.relative(intervals.mean(differences), t, error)


RULES["C4a"]["directional"] = _relative_bias(
    "mean(second derivative − v'Hv)/|t|", "directional", "hutchinson"
)
RULES["C4b"]["smooth"] = _relative_bias(
    "mean(difference − v'Hv)/|t|", "finite_difference", "directional", "smooth"
)
RULES["C4c"]["relu"] = _relative_bias(
    "mean(difference − v'Hv)/|t|", "finite_difference", "directional", "relu"
)
RULES["C4d"]["corrected"] = _relative_bias(
    "mean(corrected difference − v'Hv)/|t|",
    "finite_difference_corrected",
    "directional",
    "relu",
    in_place_of="finite_difference",
)


@_judges(
    "C6a",
    "Kendall's τ of t/N and gap within strata of label noise and width",
    "inside",
    false="τ is twice the threshold",
)
def random_flatness(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for gap in ("gap_loss", "gap_accuracy"):
        found = partial(population_rules.random_flatness, evidence.population, gap)
        false = partial(_related, evidence.population, 2 * rule["threshold"])
        yield Row(f"t/N and {gap}", found().value, _ends(found), "population.nc", false)


def _ends(found: Callable[[float], rank_correlation.Interval]) -> IntervalAt:
    """The interval of a statistic that comes with its value."""
    return lambda confidence: attrgetter("low", "high")(found(confidence))


def _related(population: xr.Dataset, tau: float, random: np.random.Generator) -> IntervalAt:
    """A population of the same seeds and strata whose mean curvature and gap have this τ."""
    simulated = population_rules.related(population, tau, random)
    return _ends(partial(population_rules.random_flatness, simulated, "gap_loss"))


@_judges(
    "C6b",
    "log10(|λ|/(|t|/N)) of λ_min and of λ_max",
    "above",
    false="the curvature is the mean one",
)
def hidden_curvature(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for network, *ends in _saddle_networks(evidence):
        if network not in evidence.visibility:
            continue
        trace, error = (
            float(evidence.visibility[network][name]) for name in ("trace", "trace_standard_error")
        )
        n_parameters = float(evidence.scores[network]["n_parameters"])
        over_trace = partial(_log_interval, trace, error)
        for name, pair in zip(("λ_min", "λ_max"), ends):
            # N|λ|: what t would be if every direction were like this one.
            low, high = sorted(n_parameters * abs(bound) for bound in _bounds(pair))
            value = n_parameters * abs(float(pair["value"]))
            of_every_direction = low / value * abs(trace), high / value * abs(trace)
            estimate = _log10_quotient(value, abs(trace))
            interval = partial(over_trace, (low, high))
            artifact = f"networks/{network}/eigenpairs.nc"
            false = _surely(partial(over_trace, of_every_direction))
            yield Row(f"{network}, {name}", estimate, interval, artifact, false)
    mean = partial(population_rules.hidden_curvature, evidence.population)
    for name, end in (("λ_min", "smallest"), ("λ_max", "largest")):
        decades = population_rules.hidden_decades(evidence.population, end)
        if decades.size:
            found = partial(mean, decades)
            false = _around(decades, 0.0, lambda values: _ends(partial(mean, values)))
            yield Row(f"population, {name}", found().value, _ends(found), "population.nc", false)


def _log_interval(
    trace: float, trace_error: float, numerator: Interval, confidence: float
) -> Interval:
    least, most = intervals.magnitude(trace, trace_error, confidence)
    return _log10_quotient(numerator[0], most), _log10_quotient(numerator[1], least)


def _log10_quotient(numerator: float, denominator: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log10(np.divide(numerator, denominator)))


@_judges(
    "C1b",
    "apparent curvature at the half-width of random slices over t/N, minus 1",
    "inside",
    false="slices are quadratic, and their curvature is off by twice the threshold",
)
def drawn_curvature(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for network, discs in evidence.apparent_curvature.items():
        if "random_train" not in evidence.slices.get(network, {}):
            continue
        surface = evidence.slices[network]["random_train"]["loss"]
        half_width = float(surface_axes(surface)[0].max())
        # Discs and pictures have radii of their own: the nearest, on a scale of lengths.
        nearest = int(abs(np.log(discs["radius"].values / half_width)).argmin())
        reference = float(discs["reference"])
        ratios = discs["mean_curvature"].isel(radius=nearest).values / reference
        exact = discs["exact_curvature"].values / reference
        beyond, interval = float(np.median(ratios)) - 1, partial(_median, ratios - 1)
        artifact = f"networks/{network}/apparent_curvature.nc"
        false = _quadratic(exact, 1 + 2 * rule["threshold"])
        yield Row(network, beyond, interval, artifact, false)


def _quadratic(ratios: np.ndarray, factor: float) -> False_:
    """Worlds whose slices are quadratic, with curvatures a factor off."""
    return lambda random: partial(_median, factor * random.choice(ratios, len(ratios)) - 1)


def _median(values: np.ndarray, confidence: float) -> Interval:
    low, high = median_interval(values, confidence)
    return float(low), float(high)


# Shares of a picture's half-widths over which a saddle must show. At its edges the quadratic form is
# half of the network's loss (`geometry.slices.half_widths`), in the middle half an eighth of it.
# Further down a loss that cannot be negative cannot follow it for long.
REGIONS = (0.25, 0.5)


@_judges(
    "C5",
    "κ₋/κ₊ of the quadratic that fits the Hessian slice as it is drawn",
    "below",
    false="the fitted saddle is a minimum",
)
def rendered_saddle(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    saddles = [network for network, *_ in _saddle_networks(evidence)]
    for network, planes in evidence.slices.items():
        if network in saddles and "hessian_train" in planes:
            loss = planes["hessian_train"]["loss"]
            fits = [fit_surface(loss, region) for region in REGIONS]
            estimate, low, high = _ratios(fits)
            # The fitted saddle turned into a minimum, with everything that is not quadratic left.
            turned = [fit_surface(_turned(loss, fits[-1]), region) for region in REGIONS]
            false = _surely(intervals.fixed(*_ratios(turned)[1:]))
            artifact = f"networks/{network}/slices/hessian.nc"
            yield Row(network, estimate, intervals.fixed(low, high), artifact, false)


def _ratios(fits: list[QuadraticFit]) -> tuple[float, float, float]:
    """κ₋/κ₊ over the largest region, and its range over the regions."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.array([float(np.divide(*fit.principal)) for fit in fits])
    return ratios[-1], ratios.min(), ratios.max()


def _turned(loss: xr.DataArray, fit: QuadraticFit) -> xr.DataArray:
    """A surface whose fitted curvatures all have the sign +."""
    values, vectors = np.linalg.eigh(fit.curvature)
    added = (vectors * (abs(values) - values)) @ vectors.T
    points = np.stack(np.meshgrid(*surface_axes(loss), indexing="ij"), axis=-1)
    return loss + np.einsum("...i,ij,...j->...", points, added, points) / 2


@_judges(
    "C7",
    "largest ‖Hv − λv‖/|λ| of the extreme eigenpairs",
    "below",
    false="the residual is twice the threshold",
)
def size(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for network, scores in evidence.scores.items():
        found = list(_end_residuals(evidence, network))
        if found and float(scores["n_parameters"]) >= rule["n_parameters"]:
            n_images, worst, artifact = max(found, key=lambda one: one[0])
            enough = n_images >= rule["n_images"]
            interval = intervals.fixed(*((worst, worst) if enough else intervals.NOTHING_KNOWN))
            false = _surely(intervals.fixed(2 * rule["threshold"], 2 * rule["threshold"]))
            yield Row(network, worst, interval, artifact, false)


def _end_residuals(evidence: Evidence, network: str) -> Iterator[tuple[int, float, str]]:
    """For each number of images: it, the larger ‖Hv − λv‖/|λ| of both ends, and where it stands."""

    def larger(values: xr.DataArray, residuals: xr.DataArray) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float((residuals.values / abs(values.values)).max())

    if network in evidence.eigenpairs:
        ends = evidence.eigenpairs[network].isel(pair=[0, -1])
        n_images = int(evidence.scores[network]["n_images"])
        path = f"networks/{network}/eigenpairs.nc"
        yield n_images, larger(ends["value"], ends["residual"]), path
    if network in evidence.image_counts:
        counted = evidence.image_counts[network]
        for one in (counted.isel(count=index) for index in range(counted.sizes["count"])):
            n_images = int(one["n_images"])
            values, residuals = (
                one[[f"{end}{suffix}" for end in ("smallest", "largest")]].to_array()
                for suffix in ("", "_residual")
            )
            path = f"networks/{network}/image_counts/{n_images}.nc"
            yield n_images, larger(values, residuals), path


_LOWER_LOSS = "share of random planes whose lowest loss reaches that of the Hessian plane"


@_judges("C8a", _LOWER_LOSS, "below", false="twice the threshold's share of random planes does")
def lower_loss(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for network, planes in evidence.lowest_losses.items():
        # The ends of the scale and its middle.
        chosen = planes.isel(radius=[0, planes.sizes["radius"] // 2, -1])
        yield from _lower_losses(network, chosen, rule, f"networks/{network}/lowest_losses.nc")


@_judges("C8b", _LOWER_LOSS, "below", false="twice the threshold's share of random planes does")
def lower_loss_at_saddles(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for subject, point in _true_saddles(evidence):
        yield from _lower_losses(subject, point, rule, "critical_points.nc")


def _lower_losses(subject: str, planes: xr.Dataset, rule: Rule, artifact: str) -> Iterator[Row]:
    tie = TIE * float(planes["noise"])
    radii, random = planes["radius"].values, planes["lowest_loss"].values.T
    for radius, lowest, reference in zip(radii, random, planes["hessian_lowest_loss"].values):
        share = as_low(lowest, reference, tie)[0]
        interval = partial(_as_low, lowest, reference, tie)
        false = _shares(len(lowest), 2 * rule["threshold"])
        yield Row(f"{subject}, ρ = {radius:.2g}", share, interval, artifact, false)


def _as_low(values: np.ndarray, reference: float, tie: float, confidence: float) -> Interval:
    return as_low(values, reference, tie, confidence)[1:]
