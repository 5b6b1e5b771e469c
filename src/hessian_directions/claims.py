"""Verdicts: the paper's claims held against artifacts, by rules that the configuration fixed beforehand.

A claim has rules, a rule has subjects (networks, saddles, measures), and each subject gives a row: an estimate
and its interval. The interval alone decides a row, the rows decide the claim.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from hessian_directions.proportions import clopper_pearson
from hessian_directions.rank_correlation import kendall_interval

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


@dataclass(frozen=True)
class Row:
    """One subject under one rule: an estimate, its interval at any confidence, the artifact it is read from."""

    subject: str
    estimate: float
    interval: Callable[[float], Interval]
    artifact: str


@dataclass(frozen=True)
class Evidence:
    """The artifacts of a profile; each mapping is keyed by network."""

    saddles: xr.Dataset
    saddle_traces: xr.Dataset
    population: xr.Dataset
    measurements: Mapping[str, xr.Dataset] = field(default_factory=dict)
    eigenpairs: Mapping[str, xr.Dataset] = field(default_factory=dict)
    projections: Mapping[str, xr.Dataset] = field(default_factory=dict)
    traces: Mapping[str, xr.Dataset] = field(default_factory=dict)
    planes: Mapping[str, xr.Dataset] = field(default_factory=dict)


def decide(interval: Interval, side: str, threshold: float, margin: float) -> str:
    """The verdict of one row; an interval that is not finite decides nothing."""
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return INCONCLUSIVE
    if side == "below":
        low, high, threshold, side = -high, -low, -threshold, "above"
    if side == "above":
        if low > threshold + margin:
            return REPRODUCED
        return NOT_REPRODUCED if high < threshold - margin else INCONCLUSIVE
    if -(threshold - margin) <= low and high <= threshold - margin:
        return REPRODUCED
    outside = low > threshold + margin or high < -(threshold + margin)
    return NOT_REPRODUCED if outside else INCONCLUSIVE


def combine(verdicts: list[str]) -> str:
    """A claim is not reproduced if one row is not, reproduced if all rows are, otherwise inconclusive."""
    if NOT_REPRODUCED in verdicts:
        return NOT_REPRODUCED
    return REPRODUCED if verdicts and set(verdicts) == {REPRODUCED} else INCONCLUSIVE


def decide_rows(evidence: Evidence, rules: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A table with one row per claim, rule and subject."""
    table = []
    for claim, claim_rules in rules.items():
        for name, rule in claim_rules.items():
            rows = list(_STATISTICS[claim, name](evidence, rule))
            error_rate = 1 - rule["confidence"]
            if rule["correction"] == "bonferroni":
                error_rate /= max(len(rows), 1)
            for row in rows:
                low, high = row.interval(1 - error_rate)
                verdict = decide((low, high), rule["side"], rule["threshold"], rule["margin"])
                table.append(
                    {
                        "claim": claim,
                        "rule": name,
                        "subject": row.subject,
                        "statistic": rule["statistic"],
                        "estimate": row.estimate,
                        "low": low,
                        "high": high,
                        "confidence": 1 - error_rate,
                        "side": rule["side"],
                        "threshold": rule["threshold"],
                        "margin": rule["margin"],
                        "verdict": verdict,
                        "artifact": row.artifact,
                    }
                )
    return pd.DataFrame(table)


def decide_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """A table with one row per claim: its verdict and the row that decided it.

    The deciding row is, among those with the claim's verdict, the one whose interval reaches farthest towards
    the other side of its threshold.
    """
    table = []
    for claim, text in CLAIMS.items():
        mine = rows[rows["claim"] == claim]
        verdict = combine(list(mine["verdict"]))
        entry: dict[str, Any] = {"claim": claim, "text": text, "verdict": verdict}
        counts = mine["verdict"].value_counts()
        for kind in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE):
            entry[f"n_{kind.replace(' ', '_')}"] = int(counts.get(kind, 0))
        candidates = mine[mine["verdict"] == verdict]
        if len(candidates):
            deciding = candidates.loc[candidates.apply(_slack, axis=1).idxmin()]
            columns = ["rule", "subject", "statistic", "estimate", "low", "high", "confidence"]
            entry |= deciding[[*columns, "artifact"]].to_dict()
        else:
            entry |= {"rule": "none", "subject": "no subject in this profile"}
        table.append(entry)
    return pd.DataFrame(table)


def _slack(row: pd.Series) -> float:
    """How far inside its verdict a row lies, in units of its interval's half width."""
    width = max((row["high"] - row["low"]) / 2, 1e-300)
    if row["side"] == "inside":
        nearest = row["threshold"] - max(abs(row["low"]), abs(row["high"]))
    elif row["side"] == "above":
        nearest = row["low"] - row["threshold"]
    else:
        nearest = row["threshold"] - row["high"]
    return nearest / width


# The statistics, one function per rule.


def _mean_interval(values: np.ndarray, extra_variance: float = 0.0) -> Callable[[float], Interval]:
    """Student's interval of a mean, with the variance of an independent reference added."""
    values = values[np.isfinite(values)]
    mean = values.mean()
    error = math.sqrt(values.var(ddof=1) / len(values) + extra_variance)

    def interval(confidence: float) -> Interval:
        half = scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error
        return mean - half, mean + half

    return interval


def _scaled(interval: Callable[[float], Interval], factor: float) -> Callable[[float], Interval]:
    def scaled(confidence: float) -> Interval:
        low, high = sorted(factor * end for end in interval(confidence))
        return low, high

    return scaled


@dataclass(frozen=True)
class _Sampled:
    """Sampled projected Hessians of one subject with its trace, known or estimated independently."""

    subject: str
    matrices: np.ndarray  # (S, 2, 2)
    trace: float
    trace_error: float
    frobenius_norm: float
    artifact: str

    @property
    def diagonal(self) -> np.ndarray:  # (2S,) independent samples of η'Hη
        return np.concatenate([self.matrices[:, 0, 0], self.matrices[:, 1, 1]])


def _sampled(evidence: Evidence) -> Iterator[_Sampled]:
    for index, n_positive in enumerate(evidence.saddles["saddle"].values):
        saddle = evidence.saddles.isel(saddle=index)
        yield _Sampled(
            f"saddle ñ={n_positive}",
            saddle["projected_hessian"].values,
            float(saddle["trace"]),
            0.0,
            float(saddle["frobenius_norm"]),
            "synthetic/saddles.nc",
        )
    yield from _sampled_networks(evidence)


def _sampled_networks(evidence: Evidence) -> Iterator[_Sampled]:
    for network, dataset in evidence.projections.items():
        yield _Sampled(
            network,
            dataset["projected_hessian"].values,
            float(dataset["trace"]),
            float(dataset["trace_standard_error"]),
            float(dataset["frobenius_norm"]),
            f"networks/{network}/projections.nc",
        )


def _expected_curvature(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for one in _sampled(evidence):
        interval = _mean_interval(one.diagonal - one.trace, one.trace_error**2)
        estimate = (one.diagonal.mean() - one.trace) / one.frobenius_norm
        yield Row(one.subject, estimate, _scaled(interval, 1 / one.frobenius_norm), one.artifact)


def _apparent_sign(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for one in _sampled(evidence):
        if one.trace == 0 and one.trace_error == 0:
            continue
        sign = math.copysign(1.0, one.trace)
        of_mean = _scaled(_mean_interval(one.diagonal), sign / one.frobenius_norm)

        def interval(
            confidence: float, of_mean: Callable[[float], Interval] = of_mean, one: _Sampled = one
        ) -> Interval:
            low, high = of_mean(confidence)
            quantile = scipy.stats.norm.ppf((1 + confidence) / 2)
            if abs(one.trace) <= quantile * one.trace_error:
                # The reference's own sign is open, so either sign of the product is possible.
                reach = max(abs(low), abs(high))
                return -reach, reach
            return low, high

        estimate = sign * one.diagonal.mean() / one.frobenius_norm
        yield Row(one.subject, estimate, interval, one.artifact)


def _apparent_flatness(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for one in _sampled(evidence):
        if one.trace == 0 and one.trace_error == 0:
            estimate = one.diagonal.mean() / one.frobenius_norm
            interval = _scaled(_mean_interval(one.diagonal), 1 / one.frobenius_norm)
            yield Row(one.subject, estimate, interval, one.artifact)


def _expected_projection(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for one in _sampled(evidence):
        entries = np.stack(
            [one.matrices[:, 0, 0], one.matrices[:, 1, 1], one.matrices[:, 0, 1]]
        )  # (3, S)
        a, c, b = entries.mean(axis=1)
        # Delta method for the determinant of the mean matrix.
        slope = np.array([c, a, -2 * b])
        error = math.sqrt(slope @ np.cov(entries) @ slope / entries.shape[1])
        scale = one.frobenius_norm**2
        yield Row(
            one.subject,
            (a * c - b * b) / scale,
            _normal_interval((a * c - b * b) / scale, error / scale),
            one.artifact,
        )


def _normal_interval(estimate: float, error: float) -> Callable[[float], Interval]:
    def interval(confidence: float) -> Interval:
        half = scipy.stats.norm.ppf((1 + confidence) / 2) * error
        return estimate - half, estimate + half

    return interval


def _is_saddle(eigenpairs: xr.Dataset) -> bool:
    """Whether the extreme eigenvalues have both signs beyond their residuals."""
    smallest, largest = eigenpairs.isel(pair=0), eigenpairs.isel(pair=-1)
    return bool(
        smallest["value"] + smallest["residual"] < 0 < largest["value"] - largest["residual"]
    ) and not bool(smallest["below_noise"])


def _single_projection(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for one in _sampled_networks(evidence):
        if _is_saddle(evidence.eigenpairs[one.subject]):
            seen, total = int((np.linalg.det(one.matrices) < 0).sum()), len(one.matrices)
            yield Row(one.subject, seen / total, _share_interval(seen, total), one.artifact)


def _share_interval(successes: int, total: int) -> Callable[[float], Interval]:
    return lambda confidence: clopper_pearson(successes, total, confidence)


def _compared_traces(evidence: Evidence) -> Iterator[tuple[str, xr.Dataset, str, str]]:
    traces = evidence.saddle_traces
    for index, n_positive in enumerate(traces["saddle"].values):
        saddle = traces.isel(saddle=index)
        yield f"saddle ñ={n_positive}", saddle, "smooth", "synthetic/traces.nc"
    for network, dataset in evidence.traces.items():
        artifact = f"networks/{network}/traces.nc"
        yield network, dataset, dataset.attrs["activation"], artifact


def _bias(activation: str) -> Callable[[Evidence, Mapping[str, Any]], Iterator[Row]]:
    def statistic(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
        for subject, traces, kind, artifact in _compared_traces(evidence):
            scale = abs(float(traces["reference"]))
            if kind == activation and scale > 0:
                samples = traces["samples"]
                difference = (
                    samples.sel(estimator="finite_difference")
                    - samples.sel(estimator="directional")
                ).values
                estimate = float(np.nanmean(difference)) / scale
                interval = _scaled(_mean_interval(difference), 1 / scale)
                yield Row(subject, estimate, interval, artifact)

    return statistic


def _variance_ratio(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for subject, traces, kind, artifact in _compared_traces(evidence):
        if kind != "smooth":
            continue  # on kinks the two measure different things, see the bias
        differences = traces["samples"].sel(estimator="finite_difference").dropna("sample").values
        products = traces["samples"].sel(estimator="hutchinson").dropna("sample").values
        ratios = _bootstrap_log_ratio(differences, products)
        estimate = math.log(differences.std(ddof=1) / products.std(ddof=1))

        def interval(confidence: float, ratios: np.ndarray = ratios) -> Interval:
            low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
            return float(low), float(high)

        yield Row(subject, estimate, interval, artifact)


def _bootstrap_log_ratio(first: np.ndarray, second: np.ndarray, n: int = 4000) -> np.ndarray:
    """Bootstrap distribution of log(σ₁/σ₂) over the shared directions."""
    picked = np.random.default_rng(0).integers(len(first), size=(n, len(first)))
    return np.log(first[picked].std(axis=1, ddof=1) / second[picked].std(axis=1, ddof=1))


def _opposite_curvatures(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for network, pairs in evidence.eigenpairs.items():
        if _is_saddle(pairs):
            smallest, largest = pairs.isel(pair=0), float(pairs["value"][-1])
            curvature, residual = float(smallest["exact_curvature"]), float(smallest["residual"])
            interval = (curvature - residual) / largest, (curvature + residual) / largest
            artifact = f"networks/{network}/eigenpairs.nc"
            yield Row(network, curvature / largest, lambda _, i=interval: i, artifact)


def _random_flatness(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    reached = evidence.population.isel(member=evidence.population["reached"].values.astype(bool))
    for gap in ("gap_loss", "gap_accuracy"):
        curvature, generalization = reached["mean_curvature"].values, reached[gap].values

        def interval(
            confidence: float, x: np.ndarray = curvature, y: np.ndarray = generalization
        ) -> Interval:
            return kendall_interval(x, y, confidence=confidence)

        estimate = scipy.stats.kendalltau(curvature, generalization).statistic
        yield Row(f"t/N and {gap}", float(estimate), interval, "population.nc")


def _hidden_curvature(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for network, dataset in evidence.projections.items():
        pairs = evidence.eigenpairs[network]
        if not _is_saddle(pairs):
            continue
        smallest, largest = pairs.isel(pair=0), pairs.isel(pair=-1)
        curvature = min(float(largest["value"]), -float(smallest["value"]))
        residual = max(float(largest["residual"]), float(smallest["residual"]))
        n_parameters = float(evidence.measurements[network]["n_parameters"])
        trace, error = float(dataset["trace"]), float(dataset["trace_standard_error"])

        def interval(
            confidence: float,
            curvature: float = curvature,
            residual: float = residual,
            n_parameters: float = n_parameters,
            trace: float = trace,
            error: float = error,
        ) -> Interval:
            half = scipy.stats.norm.ppf((1 + confidence) / 2) * error
            most, least = abs(trace) + half, max(abs(trace) - half, 1e-300)
            return (
                math.log10((curvature - residual) * n_parameters / most),
                math.log10((curvature + residual) * n_parameters / least),
            )

        estimate = math.log10(curvature * n_parameters / abs(trace))
        yield Row(network, estimate, interval, f"networks/{network}/eigenpairs.nc")


def _size(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for network, pairs in evidence.eigenpairs.items():
        if float(evidence.measurements[network]["n_parameters"]) >= rule["n_parameters"]:
            ends = pairs.isel(pair=[0, -1])
            residual = float((ends["residual"] / abs(ends["value"])).max())
            artifact = f"networks/{network}/eigenpairs.nc"
            yield Row(network, residual, lambda _, r=residual: (r, r), artifact)


def _lower_loss(evidence: Evidence, rule: Mapping[str, Any]) -> Iterator[Row]:
    for network, planes in evidence.planes.items():
        lowest = planes["lowest_loss"].values
        reached = int((lowest <= float(planes["hessian_lowest_loss"])).sum())
        interval = _share_interval(reached, len(lowest))
        yield Row(network, reached / len(lowest), interval, f"networks/{network}/planes.nc")


_STATISTICS: dict[tuple[str, str], Callable[[Evidence, Mapping[str, Any]], Iterator[Row]]] = {
    ("C1", "expected_curvature"): _expected_curvature,
    ("C2", "apparent_sign"): _apparent_sign,
    ("C2", "apparent_flatness"): _apparent_flatness,
    ("C3", "expected_projection"): _expected_projection,
    ("C3", "single_projection"): _single_projection,
    ("C4", "smooth"): _bias("smooth"),
    ("C4", "relu"): _bias("relu"),
    ("C4", "variance"): _variance_ratio,
    ("C5", "opposite_curvatures"): _opposite_curvatures,
    ("C6", "random_flatness"): _random_flatness,
    ("C6", "hidden_curvature"): _hidden_curvature,
    ("C7", "size"): _size,
    ("C8", "lower_loss"): _lower_loss,
}
RULES = tuple(_STATISTICS)
