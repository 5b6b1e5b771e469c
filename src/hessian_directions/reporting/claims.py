"""Verdicts: the paper's claims held against artifacts, by rules fixed before anything ran.

A claim has rules, a rule has subjects (networks, saddles, measures), and each subject gives a row:
an estimate and its interval. The interval alone decides a row, the rows decide the claim. What is
not a number decides nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from hessian_directions.statistics.proportions import clopper_pearson
from hessian_directions.statistics.rank_correlation import kendall_interval, kendall_tau

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"

CLAIMS = {
    "C1": "The expected curvature of a random projection is the trace of the Hessian",
    "C2": "The sign of the mean curvature decides what a saddle looks like on average",
    "C3": "Saddles are rarely identified as such in expected random projections",
    "C4": "Loss values alone estimate the trace as well as Hutchinson's method does",
    "C5": "Slices along the extreme Hessian directions show the saddle",
    "C6": "Flatness seen in random projections says little",
    "C7": "The method works for image classifiers of up to about 7·10⁶ parameters",
    "C8": "Along Hessian directions points of lower loss are found that random projections miss",
}

Interval = tuple[float, float]
IntervalAt = Callable[[float], Interval]  # of a confidence
Rule = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One subject under one rule: an estimate, its interval, the artifact both are read from."""

    subject: str
    estimate: float
    interval: IntervalAt
    artifact: str


@dataclass(frozen=True)
class Evidence:
    """The artifacts of a profile; each mapping is keyed by network."""

    saddles: xr.Dataset
    saddle_traces: xr.Dataset
    population: xr.Dataset
    scores: Mapping[str, xr.Dataset] = field(default_factory=dict)
    eigenpairs: Mapping[str, xr.Dataset] = field(default_factory=dict)
    visibility: Mapping[str, xr.Dataset] = field(default_factory=dict)
    trace_estimators: Mapping[str, xr.Dataset] = field(default_factory=dict)
    lowest_points: Mapping[str, xr.Dataset] = field(default_factory=dict)


def decide(interval: Interval, side: str, threshold: float) -> str:
    """The verdict of one row.

    An end at infinity is an end that nothing is known about; an interval of NaN decides nothing.
    """
    low, high = interval
    if not (low < math.inf and high > -math.inf):
        return INCONCLUSIVE
    if side == "below":
        low, high, threshold, side = -high, -low, -threshold, "above"
    if side == "above":
        if low > threshold:
            return REPRODUCED
        return NOT_REPRODUCED if high < threshold else INCONCLUSIVE
    if -threshold <= low and high <= threshold:
        return REPRODUCED
    outside = low > threshold or high < -threshold
    return NOT_REPRODUCED if outside else INCONCLUSIVE


def combine(verdicts: list[str]) -> str:
    """Not reproduced if one row is not, reproduced if all rows are, otherwise inconclusive."""
    if NOT_REPRODUCED in verdicts:
        return NOT_REPRODUCED
    return REPRODUCED if verdicts and set(verdicts) == {REPRODUCED} else INCONCLUSIVE


_EVIDENCE_COLUMNS = ["rule", "subject", "statistic", "estimate", "low", "high", "confidence"]
ROW_COLUMNS = ["claim", *_EVIDENCE_COLUMNS, "side", "threshold", "verdict", "artifact"]
_COUNT_COLUMNS = ["n_reproduced", "n_not_reproduced", "n_inconclusive"]
CLAIM_COLUMNS = ["claim", "text", "verdict", *_COUNT_COLUMNS, *_EVIDENCE_COLUMNS, "artifact"]


def decide_rows(evidence: Evidence, rules: Mapping[str, Mapping[str, Rule]]) -> pd.DataFrame:
    """A table with one row per claim, rule and subject."""
    table = []
    for claim, claim_rules in rules.items():
        for name, rule in claim_rules.items():
            rows = list(RULES[claim][name].rows(evidence, rule))
            error_rate = 1 - rule["confidence"]
            if rule["correction"] == "bonferroni":
                error_rate /= max(len(rows), 1)
            for row in rows:
                low, high = row.interval(1 - error_rate)
                table.append(
                    {
                        "claim": claim,
                        "rule": name,
                        "subject": row.subject,
                        "statistic": rule["statistic"],
                        "estimate": float(row.estimate),
                        "low": float(low),
                        "high": float(high),
                        "confidence": 1 - error_rate,
                        "side": rule["side"],
                        "threshold": rule["threshold"],
                        "verdict": decide((low, high), rule["side"], rule["threshold"]),
                        "artifact": row.artifact,
                    }
                )
    return pd.DataFrame(table, columns=ROW_COLUMNS)


def decide_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """A table with one row per claim: its verdict and the row that decided it.

    The deciding row is, among those with the claim's verdict, the one with the least clearance: of
    rows that are reproduced the one closest to failing, of rows that are not the clearest failure.
    """
    table = []
    for claim, text in CLAIMS.items():
        mine = rows[rows["claim"] == claim]
        verdict = combine(list(mine["verdict"]))
        entry: dict[str, Any] = {"claim": claim, "text": text, "verdict": verdict}
        for column, kind in zip(_COUNT_COLUMNS, (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)):
            entry[column] = int((mine["verdict"] == kind).sum())
        candidates = mine[mine["verdict"] == verdict]
        if len(candidates):
            clearances = np.array([_clearance(row) for _, row in candidates.iterrows()])
            deciding = candidates.iloc[np.where(np.isnan(clearances), np.inf, clearances).argmin()]
            entry |= {name: deciding[name] for name in [*_EVIDENCE_COLUMNS, "artifact"]}
        else:
            entry |= {"rule": "none", "subject": "no subject in this profile"}
        table.append(entry)
    return pd.DataFrame(table, columns=CLAIM_COLUMNS)


def _clearance(row: pd.Series) -> float:
    """How far the end nearest to failing lies on the right side, in half widths of the interval."""
    low, high, threshold = (float(row[name]) for name in ("low", "high", "threshold"))
    if row["side"] == "inside":
        distance = threshold - max(abs(low), abs(high))
    elif row["side"] == "above":
        distance = low - threshold
    else:
        distance = threshold - high
    return distance / max((high - low) / 2, 1e-300)


# Intervals, as functions of the confidence.


def _fixed(low: float, high: float) -> IntervalAt:
    """Bounds that hold for certain."""
    return lambda confidence: (low, high)


def _student_interval(estimate: float, error: float, degrees_of_freedom: int) -> IntervalAt:
    def interval(confidence: float) -> Interval:
        half = scipy.stats.t.ppf((1 + confidence) / 2, degrees_of_freedom) * error
        return estimate - half, estimate + half

    return interval


def _mean_interval(values: np.ndarray, extra_variance: float = 0.0) -> IntervalAt:
    """Student's interval of a mean, with the variance of an independent reference added."""
    error = np.sqrt(values.var(ddof=1) / len(values) + extra_variance)
    return _student_interval(values.mean(), error, len(values) - 1)


def _share_interval(hits: np.ndarray) -> IntervalAt:
    """Clopper and Pearson's interval of a share; `hits` are 1, 0, or NaN where it is not known."""
    if np.isnan(hits).any():
        return _fixed(math.nan, math.nan)
    return partial(clopper_pearson, int(hits.sum()), len(hits))


def _tau_interval(x: np.ndarray, y: np.ndarray) -> IntervalAt:
    """Bootstrap interval of Kendall's τ.

    A perfect order of n members by chance has the probability 2/n! and an interval without width:
    fewer than eight members decide nothing.
    """
    if len(x) < 8 or not np.isfinite([x, y]).all():
        return _fixed(math.nan, math.nan)
    return lambda confidence: kendall_interval(x, y, confidence=confidence)


def _magnitude(value: float, error: float, confidence: float) -> Interval:
    """Bounds of |value|, which is estimated with a standard error."""
    half = scipy.stats.norm.ppf((1 + confidence) / 2) * error
    return np.maximum(abs(value) - half, 0.0), abs(value) + half


def _quotient(numerator: Interval, denominator: Interval) -> Interval:
    """Bounds of all quotients of two intervals; none where the denominator may vanish."""
    if denominator[0] <= 0 <= denominator[1]:
        return -math.inf, math.inf
    quotients = np.divide.outer(numerator, denominator)
    return quotients.min(), quotients.max()


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
        names = ("projected_hessian", "trace", "trace_standard_error")
        f = dataset["frobenius_norm"].values
        with np.errstate(divide="ignore", invalid="ignore"):
            matrices, trace, trace_error = (dataset[name].values / f for name in names)
        return cls(subject, matrices, trace, trace_error, artifact)

    @property
    def curvatures(self) -> np.ndarray:  # (2S,) independent samples of η'Hη
        return np.concatenate([self.matrices[:, 0, 0], self.matrices[:, 1, 1]])

    @property
    def has_no_trace(self) -> bool:  # for certain
        return bool(self.trace == 0 and self.trace_error == 0)


def _sampled(evidence: Evidence) -> Iterator[_Sampled]:
    saddles = evidence.saddles.assign(trace_standard_error=xr.zeros_like(evidence.saddles["trace"]))
    for index, n_positive in enumerate(saddles["saddle"].values):
        subject = f"saddle ñ={n_positive}"
        yield _Sampled.read(subject, saddles.isel(saddle=index), "saddles.nc")
    for network, dataset in evidence.visibility.items():
        yield _Sampled.read(network, dataset, f"networks/{network}/visibility.nc")


def _saddle_networks(evidence: Evidence) -> Iterator[tuple[str, xr.Dataset, xr.Dataset]]:
    """Networks whose eigenvalues have both signs beyond residuals and noise, and their two ends."""
    for network, pairs in evidence.eigenpairs.items():
        smallest, largest = pairs.isel(pair=0), pairs.isel(pair=-1)
        both_signs = _bounds(smallest, "value")[1] < 0 < _bounds(largest, "value")[0]
        if both_signs and not smallest["below_noise"] and not largest["below_noise"]:
            yield network, smallest, largest


def _bounds(pair: xr.Dataset, name: str) -> Interval:
    """A curvature along an eigenvector, give or take the residual."""
    value, residual = float(pair[name]), float(pair["residual"])
    return value - residual, value + residual


def _compared_traces(evidence: Evidence) -> Iterator[tuple[str, xr.Dataset, str]]:
    for index, n_positive in enumerate(evidence.saddle_traces["saddle"].values):
        saddle = evidence.saddle_traces.isel(saddle=index)
        yield f"saddle ñ={n_positive}", saddle, "saddle_traces.nc"
    for network, dataset in evidence.trace_estimators.items():
        yield network, dataset, f"networks/{network}/trace_estimators.nc"


def _shared_samples(traces: xr.Dataset, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples of two estimators along the same directions; what follows n_samples is padding."""
    n = int(traces["n_samples"].sel(estimator=[first, second]).min())
    samples = traces["samples"].isel(sample=slice(n))
    return samples.sel(estimator=first).values, samples.sel(estimator=second).values


# The statistics, one function per rule.


def _expected_curvature(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for one in _sampled(evidence):
        differences = one.curvatures - one.trace
        interval = _mean_interval(differences, one.trace_error**2)
        yield Row(one.subject, differences.mean(), interval, one.artifact)


def _apparent_sign(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for one in _sampled(evidence):
        if not one.has_no_trace:
            estimate = np.sign(one.trace) * one.curvatures.mean()
            yield Row(one.subject, estimate, _signed_interval(one), one.artifact)


def _signed_interval(one: _Sampled) -> IntervalAt:
    """The mean sampled curvature times the trace's sign: of either sign while that one is open."""
    mean_interval = _mean_interval(one.curvatures)

    def interval(confidence: float) -> Interval:
        ends = np.sign(one.trace) * np.array(mean_interval(confidence))
        if _magnitude(one.trace, one.trace_error, confidence)[0] > 0:
            return ends.min(), ends.max()
        return -abs(ends).max(), abs(ends).max()

    return interval


def _apparent_flatness(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for one in _sampled(evidence):
        if one.has_no_trace:
            interval = _mean_interval(one.curvatures)
            yield Row(one.subject, one.curvatures.mean(), interval, one.artifact)


def _expected_projection(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for one in _sampled(evidence):
        # κ₋κ₊ is the determinant ac − b² of the mean matrix; its error by the delta method.
        entries = one.matrices[:, [0, 1, 0], [0, 1, 1]].T  # (3, S)
        n_samples = entries.shape[1]
        a, c, b = entries.mean(axis=1)
        slope = np.array([c, a, -2 * b])
        error = np.sqrt(slope @ np.cov(entries) @ slope / n_samples)
        interval = _student_interval(a * c - b * b, error, n_samples - 1)
        yield Row(one.subject, a * c - b * b, interval, one.artifact)


def _single_projection(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    saddles = [network for network, *_ in _saddle_networks(evidence)]
    for one in _sampled(evidence):
        if one.subject in saddles:
            # 1 where κ₋κ₊ < 0; NaN stays NaN.
            hits = np.heaviside(-np.linalg.det(one.matrices), 0.0)
            yield Row(one.subject, hits.mean(), _share_interval(hits), one.artifact)


def _bias(activation: str) -> Callable[[Evidence, Rule], Iterator[Row]]:
    def statistic(evidence: Evidence, rule: Rule) -> Iterator[Row]:
        for subject, traces, artifact in _compared_traces(evidence):
            t, error = float(traces["reference"]), float(traces["reference_standard_error"])
            if traces.attrs["activation"] != activation or t == error == 0:
                continue  # a share of a trace that is zero says nothing
            values, exact = _shared_samples(traces, "finite_difference", "directional")
            interval = _relative_interval(_mean_interval(values - exact), t, error)
            estimate = np.divide((values - exact).mean(), abs(t))
            yield Row(subject, estimate, interval, artifact)

    return statistic


def _relative_interval(interval: IntervalAt, reference: float, error: float) -> IntervalAt:
    return lambda confidence: _quotient(
        interval(confidence), _magnitude(reference, error, confidence)
    )


def _variance_ratio(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for subject, traces, artifact in _compared_traces(evidence):
        if traces.attrs["activation"] == "smooth":  # on kinks the two measure different things
            samples = np.stack(_shared_samples(traces, "finite_difference", "hutchinson"))
            interval = partial(_bootstrap_interval, _resampled_log_ratios(samples))
            yield Row(subject, _log_ratio_of_deviations(samples), interval, artifact)


def _log_ratio_of_deviations(samples: np.ndarray) -> Any:
    """log(σ₁/σ₂) of (2, …, S) samples."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = np.log(samples.std(axis=-1, ddof=1))
        return first - second


def _resampled_log_ratios(samples: np.ndarray, n_bootstrap: int = 4000) -> np.ndarray:
    """Bootstrap distribution of log(σ₁/σ₂) over the shared directions."""
    n = samples.shape[1]
    picked = np.random.default_rng(0).integers(n, size=(n_bootstrap, n))
    return _log_ratio_of_deviations(samples[:, picked])


def _bootstrap_interval(values: np.ndarray, confidence: float) -> Interval:
    if not np.isfinite(values).all():
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return low, high


def _opposite_curvatures(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for network, smallest, largest in _saddle_networks(evidence):
        curvatures = [_bounds(pair, "exact_curvature") for pair in (smallest, largest)]
        estimate = np.divide(smallest["exact_curvature"], largest["exact_curvature"])
        artifact = f"networks/{network}/eigenpairs.nc"
        yield Row(network, float(estimate), _fixed(*_quotient(*curvatures)), artifact)


def _random_flatness(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    reached = evidence.population.isel(member=evidence.population["reached"].values.astype(bool))
    for gap in ("gap_loss", "gap_accuracy"):
        x, y = reached["mean_curvature"].values, reached[gap].values
        estimate = kendall_tau(x, y) if np.isfinite([x, y]).all() else math.nan
        yield Row(f"t/N and {gap}", estimate, _tau_interval(x, y), "population.nc")


def _hidden_curvature(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for network, smallest, largest in _saddle_networks(evidence):
        if network not in evidence.visibility:
            continue
        trace, error = (
            float(evidence.visibility[network][name]) for name in ("trace", "trace_standard_error")
        )
        negative, positive = _bounds(smallest, "value"), _bounds(largest, "value")
        # The weaker of the two signs, times N: what t would be if every direction were like it.
        n_parameters = float(evidence.scores[network]["n_parameters"])
        bounds = (
            n_parameters * min(positive[0], -negative[1]),
            n_parameters * min(positive[1], -negative[0]),
        )
        weaker = n_parameters * min(float(largest["value"]), -float(smallest["value"]))
        estimate = _log10_quotient(weaker, abs(trace))
        artifact = f"networks/{network}/eigenpairs.nc"
        yield Row(network, estimate, partial(_log_interval, bounds, trace, error), artifact)


def _log_interval(
    numerator: Interval, trace: float, trace_error: float, confidence: float
) -> Interval:
    least, most = _magnitude(trace, trace_error, confidence)
    return _log10_quotient(numerator[0], most), _log10_quotient(numerator[1], least)


def _log10_quotient(numerator: float, denominator: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log10(np.divide(numerator, denominator)))


def _size(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for network, pairs in evidence.eigenpairs.items():
        if float(evidence.scores[network]["n_parameters"]) >= rule["n_parameters"]:
            ends = pairs.isel(pair=[0, -1])
            with np.errstate(divide="ignore", invalid="ignore"):
                worst = float((ends["residual"].values / abs(ends["value"].values)).max())
            yield Row(network, worst, _fixed(worst, worst), f"networks/{network}/eigenpairs.nc")


def _lower_loss(evidence: Evidence, rule: Rule) -> Iterator[Row]:
    for network, planes in evidence.lowest_points.items():
        # 1 where a random plane goes as low as the Hessian plane; NaN stays NaN.
        advantage = (planes["lowest_loss"] - planes["hessian_lowest_loss"]).values
        hits = np.heaviside(-advantage, 1.0)
        yield Row(
            network, hits.mean(), _share_interval(hits), f"networks/{network}/lowest_points.nc"
        )


@dataclass(frozen=True)
class Declared:
    """A rule of a claim: what is measured, and on which side of its threshold the claim holds."""

    statistic: str
    side: str
    rows: Callable[[Evidence, Rule], Iterator[Row]]


# Thresholds stand in config/claims.yaml.
RULES: dict[str, dict[str, Declared]] = {
    "C1": {
        # The expected curvature of a random projection is t.
        "expected_curvature": Declared("(mean(η'Hη) − t)/f", "inside", _expected_curvature),
    },
    "C2": {
        # The sign of t is the sign of the mean sampled curvature.
        "apparent_sign": Declared("sign(t)·mean(η'Hη)/f", "above", _apparent_sign),
        # Saddles of zero mean curvature look flat on average.
        "apparent_flatness": Declared("mean(η'Hη)/f", "inside", _apparent_flatness),
    },
    "C3": {
        # Principal curvatures of the mean projected Hessian have one sign (or vanish).
        "expected_projection": Declared(
            "κ₋κ₊/f² of the mean projected Hessian", "above", _expected_projection
        ),
        # Share of random planes that show the saddle of a trained network.
        "single_projection": Declared(
            "share of random planes with κ₋ < 0 < κ₊", "below", _single_projection
        ),
    },
    "C4": {
        # Relative bias of the trace from loss values, on the same directions as exact v'Hv.
        "smooth": Declared("mean(difference − v'Hv)/|t|", "inside", _bias("smooth")),
        "relu": Declared("mean(difference − v'Hv)/|t|", "inside", _bias("relu")),
        # Log of the ratio of standard deviations, loss values over Hutchinson (Gaussian).
        "variance": Declared("log(σ of differences/σ of Hutchinson)", "inside", _variance_ratio),
    },
    "C5": {
        # Exact curvature along the smallest Hessian direction, in units of the largest.
        "opposite_curvatures": Declared("v₋'Hv₋/v₊'Hv₊", "below", _opposite_curvatures),
    },
    "C6": {
        # The rank correlation of mean curvature and generalization gap is weak.
        "random_flatness": Declared("Kendall's τ of t/N and gap", "inside", _random_flatness),
        # Largest curvature of each sign, over the mean curvature that a random slice shows.
        "hidden_curvature": Declared(
            "log10(min(λ_max, −λ_min)/(|t|/N))", "above", _hidden_curvature
        ),
    },
    "C7": {
        # Both extreme eigenpairs of a network of at least that many parameters converge.
        "size": Declared("largest ‖Hv − λv‖/|λ| of the extreme eigenpairs", "below", _size),
    },
    "C8": {
        # Share of random planes whose lowest loss reaches the Hessian plane's.
        "lower_loss": Declared(
            "share of random planes at or below the Hessian plane's lowest loss",
            "below",
            _lower_loss,
        ),
    },
}
