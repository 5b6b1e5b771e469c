"""Verdicts: for every rule artifacts that reproduce its claim, refute it, or leave it open."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fabricate
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from fabricate import made, members
from scipy import stats

from hessian_directions.reporting import claims, verdicts
from hessian_directions.reporting.claims import Evidence
from hessian_directions.reporting.verdicts import INCONCLUSIVE, NOT_REPRODUCED, PROVED, REPRODUCED
from hessian_directions.reproduction.configuration import complete_claims
from hessian_directions.statistics.intervals import IntervalAt

ROOT = Path(__file__).parents[2]
RULES = complete_claims({}, "no profile", ROOT)
# The numbers of a rule are pinned here, so that the configuration can choose its own.
NUMBERS = {"confidence": 0.95}
SIZES = {"n_parameters": 6_900_000, "n_images": 250}
THRESHOLDS = {
    ("C1a", "expected_curvature"): 0.3,
    ("C2", "apparent_sign"): 0.0,
    ("C2", "apparent_flatness"): 0.1,
    ("C3a", "expected_projection"): -0.05,
    ("C3b", "single_projection"): 0.1,
    ("C4b", "smooth"): 0.05,
    ("C4c", "relu"): 0.05,
    ("C1b", "drawn_curvature"): 0.5,
    ("C4a", "directional"): 1e-6,
    ("C4d", "corrected"): 0.05,
    ("C5", "rendered_saddle"): 0.0,
    ("C6a", "random_flatness"): 0.3,
    ("C6b", "hidden_curvature"): 1.0,
    ("C7", "size"): 0.01,
    ("C8a", "lower_loss"): 0.25,
    ("C8b", "lower_loss_at_saddles"): 0.25,
}


RULES_IN_ORDER = [(claim, rule) for claim in RULES for rule in RULES[claim]]


def decide(claim: str, rule: str, evidence: Evidence, **changes: Any) -> pd.DataFrame:
    """The rows of one rule alone."""
    numbers = NUMBERS | {"threshold": THRESHOLDS[claim, rule]}
    numbers |= (SIZES if rule == "size" else {}) | changes
    return verdicts.decide_rows(
        evidence, {claim: {rule: RULES[claim][rule] | numbers}}, claims.RULES
    )


# Artifacts in the form of the stages, with the numbers one wants.


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal deviates whose mean over the last axis is zero and whose deviation is one."""
    values = np.random.default_rng(seed).standard_normal(shape)
    values -= values.mean(-1, keepdims=True)
    return values / values.std(-1, ddof=1, keepdims=True)


def sampled(
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    spread: float = 1.0,
    n: int = 400,
    trace: float = 0.0,
    trace_error: float = 0.0,
    f: float = 1.0,
) -> xr.Dataset:
    """Projected Hessians [[a, b], [b, c]] with mean (a, b, c) and deviation `spread` to the bit."""
    a, b, c = np.array(mean)[:, None] + spread * noise(3, n)
    matrices = np.moveaxis(np.array([[a, b], [b, c]]), -1, 0)
    return xr.Dataset(
        {
            "projected_hessian": (("sample", "row", "column"), f * matrices),
            "trace": f * trace,
            "trace_standard_error": f * trace_error,
            "frobenius_norm": f,
        }
    )


def saddles(**datasets: xr.Dataset) -> xr.Dataset:
    parts = [dataset.drop_vars("trace_standard_error") for dataset in datasets.values()]
    numbers = [int(name.removeprefix("n")) for name in datasets]
    return xr.concat(parts, "saddle").assign_coords(saddle=numbers)


def eigenpairs(
    smallest: float = -1.0,
    largest: float = 2.0,
    residual: float = 1e-3,
    below_noise: bool = False,
) -> xr.Dataset:
    return xr.Dataset(
        {
            "value": ("pair", [smallest, 0.5 * largest, largest]),
            "residual": ("pair", [residual] * 3),
            "below_noise": ("pair", [below_noise, False, False]),
        }
    )


def traces(
    bias: float = 0.0,
    spread: float = 0.1,
    ratio: float = 1.0,
    n: int = 100,
    reference: float = 10.0,
    error: float = 0.0,
    activation: str = "smooth",
    wrong: float = 0.0,
    kinks: float = 0.0,
) -> xr.Dataset:
    """Loss differences, corrected too, that miss the exact curvatures by `bias` ± `spread`.

    Plain differences miss them by `kinks` more. Hutchinson's samples deviate by a `ratio`-th of them
    and by what is `wrong`; six cells of padding follow the samples.
    """
    exact, scatter, other = noise(3, n)
    samples = np.full((5, n + 6), np.nan)
    samples[0, :n] = reference + exact + bias + spread * scatter
    samples[1, :n] = reference + exact
    samples[2, :n] = reference + (exact + spread * other) / ratio + wrong
    samples[3, : n // 2] = reference
    samples[4] = samples[0]
    samples[0] += kinks
    estimators = ["finite_difference", "directional", "hutchinson", "hutch_plus_plus"]
    return xr.Dataset(
        {
            "samples": (("estimator", "sample"), samples),
            "n_samples": ("estimator", [n, n, n, n // 2, n]),
            "reference": reference,
            "reference_standard_error": error,
        },
        coords={"estimator": [*estimators, "finite_difference_corrected"]},
        attrs={"activation": activation},
    )


def planes(n_as_low: int, n: int = 100, tied: int = 0) -> xr.Dataset:
    """Of n random planes some go as low as the Hessian plane, or tie with it, at every radius."""
    lowest = np.full((n, 3), 0.6)
    lowest[:n_as_low], lowest[n_as_low : n_as_low + tied] = 0.3, 0.4
    return xr.Dataset(
        {
            "lowest_loss": (("plane", "radius"), lowest),
            "hessian_lowest_loss": ("radius", [0.4] * 3),
            "noise": 1e-9,
        },
        coords={"radius": [0.01, 0.1, 1.0]},
    )


def critical_point(planes: xr.Dataset, index: int = 1, largest: float = 1.0) -> xr.Dataset:
    """One critical point with such planes around it, a saddle by default."""
    around = planes.rename(radius="disc", plane="sample").reset_coords().drop_vars("disc")
    return around.assign(
        radius=("disc", [0.01, 0.1, 1.0]), index=index, largest=largest, zero_tolerance=1e-9
    ).expand_dims("point")


def discs(ratio: float, spread: float = 0.1, n: int = 24) -> xr.Dataset:
    """Discs whose apparent curvature is `ratio` times the mean curvature at the drawn half-width."""
    reference = 0.02
    exact = reference * (1 + spread * noise(n))
    near = reference * (ratio + spread * noise(n, seed=1))
    return xr.Dataset(
        {
            "mean_curvature": (("plane", "radius"), np.stack([exact, near, 99 * exact], axis=1)),
            "exact_curvature": ("plane", exact),
            "reference": reference,
        },
        coords={"radius": [0.1, 3.0, 100.0]},
    )


def surface(alpha: float = 4.0, beta: float = -1.0, quartic: float = 0.0) -> xr.Dataset:
    """A drawn slice ½αx² + ½βy² + quartic·y⁴ over |x|, |y| ≤ 4, in lengths; α and β twice them."""
    axis = np.linspace(-2, 2, 21)
    x, y = np.meshgrid(2 * axis, 2 * axis, indexing="ij")
    loss = 1.0 + 0.1 * y + alpha * x**2 / 2 + beta * y**2 / 2 + quartic * y**4
    data = xr.DataArray(
        loss,
        {"alpha": axis, "beta": axis},
        ("alpha", "beta"),
        attrs={"length_alpha": 2.0, "length_beta": 2.0},
    )
    return data.rename("loss").to_dataset()


def drawn(**planes: xr.Dataset) -> dict[str, dict[str, xr.Dataset]]:
    return {"net": {f"{plane}_train": dataset for plane, dataset in planes.items()}}


def slices(n_seen: int, n: int = 200) -> xr.Dataset:
    """Of n projected Hessians n_seen have curvatures of both signs."""
    matrices = np.tile(np.eye(2), (n, 1, 1))
    matrices[:n_seen, 1, 1] = -1.0
    return sampled(n=n, trace=1.0).assign(projected_hessian=(("sample", "row", "column"), matrices))


def evidence(**parts: Any) -> Evidence:
    """Artifacts of one network called `net`; what is not given has no subjects."""
    nothing = {
        "saddles": saddles(n0=sampled()).isel(saddle=slice(0)),
        "saddle_traces": traces().expand_dims(saddle=[0]).isel(saddle=slice(0)),
        "population": members(0.0).isel(member=slice(0)),
    }
    of_profile = {*nothing, "critical_points"}
    given = {
        name: part if name in of_profile or isinstance(part, dict) else {"net": part}
        for name, part in parts.items()
    }
    return Evidence(**nothing | given)


def parameters(n: float, n_images: int = 500) -> xr.Dataset:
    return xr.Dataset({"n_parameters": n, "n_images": n_images})


def cases(
    rule: str, of: Callable[..., Evidence], *given: tuple[Any, ...]
) -> list[tuple[str, str, str, Callable[[], Evidence]]]:
    """What a rule says of the artifacts that `of` makes of values, each a verdict and such values."""
    return [(*rule.split(), verdict, partial(of, *values)) for verdict, *values in given]


CASES: list[tuple[str, str, str, Callable[[], Evidence]]] = [
    # The expected curvature of a random projection is the trace.
    *cases(
        "C1a expected_curvature",
        lambda d: evidence(saddles=saddles(n5=d)),
        (REPRODUCED, sampled((2.0, 0.0, 2.0), trace=2.0)),
        (REPRODUCED, sampled((-2.0, 0.0, -2.0), trace=-2.0, f=50.0)),
        (NOT_REPRODUCED, sampled((3.0, 0.0, 3.0), trace=2.0)),
        (NOT_REPRODUCED, sampled((1.0, 0.0, 1.0), trace=2.0, f=50.0)),
        (INCONCLUSIVE, sampled((2.0, 0.0, 2.0), spread=5.0, n=50, trace=2.0)),
    ),
    *cases(
        "C1a expected_curvature",
        lambda d: evidence(visibility=d),
        (REPRODUCED, sampled((5.0, 0.0, 5.0), trace=5.0, trace_error=0.05)),
        (NOT_REPRODUCED, sampled((7.0, 0.0, 7.0), trace=5.0, trace_error=0.05)),
        # The samples alone would decide; the reference is too uncertain.
        (INCONCLUSIVE, sampled((5.0, 0.0, 5.0), trace=5.0, trace_error=1.0)),
        (INCONCLUSIVE, sampled((7.0, 0.0, 7.0), trace=5.0, trace_error=1.0)),
    ),
    # The sign of the mean curvature decides what a saddle looks like.
    *cases(
        "C2 apparent_sign",
        lambda d: evidence(visibility=d),
        (REPRODUCED, sampled((2.0, 0.0, 2.0), trace=2.0)),
        (REPRODUCED, sampled((-2.0, 0.0, -2.0), trace=-2.0, trace_error=0.1)),
        (NOT_REPRODUCED, sampled((-2.0, 0.0, -2.0), trace=2.0)),
        (NOT_REPRODUCED, sampled((2.0, 0.0, 2.0), trace=-2.0, trace_error=0.1)),
        (INCONCLUSIVE, sampled((0.01, 0.0, 0.01), trace=2.0)),
        # The samples have a sign, the reference has none.
        (INCONCLUSIVE, sampled((2.0, 0.0, 2.0), trace=0.1, trace_error=0.2)),
        (INCONCLUSIVE, sampled((2.0, 0.0, 2.0), trace=0.0, trace_error=0.2)),
    ),
    *cases(
        "C2 apparent_flatness",
        lambda d: evidence(saddles=saddles(n5=d)),
        (REPRODUCED, sampled((0.0, 0.0, 0.0), n=4000)),
        (NOT_REPRODUCED, sampled((0.5, 0.0, 0.5), n=4000)),
        (NOT_REPRODUCED, sampled((-0.5, 0.0, -0.5), n=4000)),
        (INCONCLUSIVE, sampled((0.0, 0.0, 0.0), n=40)),
    ),
    # Saddles are rarely identified as such in expected random projections.
    *cases(
        "C3a expected_projection",
        lambda d: evidence(saddles=saddles(n5=d)),
        (REPRODUCED, sampled((1.0, 0.0, 1.0))),
        (REPRODUCED, sampled((-1.0, 0.2, -1.0), f=9.0)),
        (REPRODUCED, sampled((0.0, 0.0, 0.0))),  # flat: no sign to be seen
        (NOT_REPRODUCED, sampled((1.0, 0.0, -1.0))),
        (NOT_REPRODUCED, sampled((0.5, 1.0, 0.5), f=9.0)),
        (INCONCLUSIVE, sampled((0.3, 0.0, -0.2))),
    ),
    *cases(
        "C3b single_projection",
        lambda n: evidence(visibility=slices(n), eigenpairs=eigenpairs()),
        (REPRODUCED, 0),
        (NOT_REPRODUCED, 100),
        (INCONCLUSIVE, 20),
    ),
    # Loss values alone estimate the trace.
    *(
        case
        for rule, given in [
            ("C4b smooth", {"activation": "smooth"}),
            ("C4c relu", {"activation": "relu"}),
            ("C4d corrected", {"activation": "relu", "kinks": 30.0}),
        ]
        for case in cases(
            rule,
            lambda of, more=given: evidence(trace_estimators=traces(**of, **more)),
            (REPRODUCED, {"bias": 0.1}),
            (REPRODUCED, {"bias": -0.1, "reference": -10.0}),
            (NOT_REPRODUCED, {"bias": 5.0}),
            (NOT_REPRODUCED, {"bias": -5.0, "reference": -10.0}),
            (INCONCLUSIVE, {"spread": 20.0}),
            # A bias in units of a trace that may be zero.
            (INCONCLUSIVE, {"bias": 0.5, "reference": 1.0, "error": 1.0}),
        )
    ),
    *cases(
        "C4a directional",
        lambda d: evidence(trace_estimators=d),
        (REPRODUCED, traces(spread=0.0)),
        (REPRODUCED, traces(spread=0.0, activation="relu")),
        (NOT_REPRODUCED, traces(spread=0.0, wrong=1.0)),
        (INCONCLUSIVE, traces(ratio=2.0)),
    ),
    # Slices along the extreme Hessian directions show the saddle.
    *cases(
        "C5 rendered_saddle",
        lambda d: evidence(eigenpairs=eigenpairs(), slices=drawn(hessian=d)),
        (REPRODUCED, surface()),
        (REPRODUCED, surface(quartic=1e-3)),
        (NOT_REPRODUCED, surface(beta=1.0)),
        # A saddle at the network, a minimum to the eye.
        (INCONCLUSIVE, surface(quartic=0.2)),
    ),
    # Random slices as they are drawn show the mean curvature.
    *cases(
        "C1b drawn_curvature",
        lambda d: evidence(apparent_curvature=d, slices=drawn(random=surface())),
        (REPRODUCED, discs(1.2)),
        (NOT_REPRODUCED, discs(7.0)),
        (NOT_REPRODUCED, discs(-1.0)),
        (INCONCLUSIVE, discs(1.5)),
        (INCONCLUSIVE, discs(1.2, spread=5.0)),
    ),
    # Flatness seen in random projections says little.
    *cases(
        "C6a random_flatness",
        lambda d: evidence(population=d),
        (REPRODUCED, members(0.0)),
        (REPRODUCED, members(0.0, of_stratum=99.0)),  # all of it is label noise
        (NOT_REPRODUCED, members(0.9)),
        (NOT_REPRODUCED, members(-0.9)),
        (INCONCLUSIVE, members(0.45)),
        (INCONCLUSIVE, members(0.0, n_seeds=2)),  # too few to notice a relation
    ),
    *cases(
        "C6b hidden_curvature",
        lambda t, e, d: evidence(
            eigenpairs=eigenpairs(-5.0, 50.0),
            visibility=sampled(trace=t, trace_error=e),
            scores=parameters(1000),
            population=members(0.0, decades=d),
        ),
        (REPRODUCED, 10.0, 1.0, 3.0),
        (REPRODUCED, -10.0, 1.0, 3.0),
        (NOT_REPRODUCED, 1e5, 10.0, 3.0),
        (NOT_REPRODUCED, 10.0, 1.0, 0.5),  # of the population alone
        (INCONCLUSIVE, 500.0, 100.0, 3.0),
        (INCONCLUSIVE, 10.0, 50.0, 3.0),  # a trace that may vanish refutes nothing
    ),
    # The method works for classifiers of about 7·10⁶ parameters.
    *cases(
        "C7 size",
        lambda r, n: evidence(eigenpairs=eigenpairs(-2.0, 2.0, r), scores=parameters(6_956_298, n)),
        (REPRODUCED, 2e-3, 250),
        (NOT_REPRODUCED, 0.2, 250),
        (INCONCLUSIVE, 2e-3, 60),
        (INCONCLUSIVE, 0.2, 60),
    ),
    # Along Hessian directions points of lower loss are found.
    *cases(
        "C8a lower_loss",
        lambda n: evidence(lowest_losses=planes(n)),
        (REPRODUCED, 5),
        (NOT_REPRODUCED, 60),
        (INCONCLUSIVE, 25),
    ),
    # No plane finds anything lower than the network: a tie decides nothing.
    ("C8a", "lower_loss", INCONCLUSIVE, lambda: evidence(lowest_losses=planes(0, tied=100))),
    ("C8a", "lower_loss", INCONCLUSIVE, lambda: evidence(lowest_losses=planes(0, n=5))),
    *cases(
        "C8b lower_loss_at_saddles",
        lambda n: evidence(critical_points=critical_point(planes(n))),
        (REPRODUCED, 5),
        (NOT_REPRODUCED, 60),
        (INCONCLUSIVE, 25),
    ),
]


@pytest.mark.parametrize(
    ("claim", "rule", "verdict", "case"),
    CASES,
    ids=[f"{claim}-{rule}-{verdict}" for claim, rule, verdict, _ in CASES],
)
def test_rule(claim: str, rule: str, verdict: str, case: Callable[[], Evidence]) -> None:
    rows = decide(claim, rule, case())
    table = verdicts.decide_claims(rows, claims.CLAIMS).set_index("claim")
    holds = PROVED if claims.CLAIMS[claim].theorem else REPRODUCED
    assert table.loc[claim, "verdict"] == (holds if verdict == REPRODUCED else verdict)
    assert (table.drop(claim)["verdict"] == INCONCLUSIVE).all()
    assert table.loc[claim, "rule"] == rule


def test_every_rule_has_every_verdict() -> None:
    covered = {(claim, rule, verdict) for claim, rule, verdict, _ in CASES}
    verdicts = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)
    assert covered == {(*rule, verdict) for rule in RULES_IN_ORDER for verdict in verdicts}


def test_every_claim_has_rules_and_says_whose_it_is() -> None:
    assert list(claims.RULES) == list(claims.CLAIMS)
    for said in claims.CLAIMS.values():
        assert (said.edition == verdicts.OURS) == (not said.sentence)


# Who is a subject.


@pytest.mark.parametrize(
    ("rule", "artifacts"),
    [
        # Neither a minimum, nor what may be one, is a saddle that could be seen or missed.
        ("C3b single_projection", {"eigenpairs": eigenpairs(0.5), "visibility": slices(9)}),
        ("C3b single_projection", {"eigenpairs": eigenpairs(-1e-4), "visibility": slices(9)}),
        (
            "C5 rendered_saddle",
            {"eigenpairs": eigenpairs(below_noise=True), "slices": drawn(hessian=surface())},
        ),
        (
            "C5 rendered_saddle",
            {"eigenpairs": eigenpairs(-2.0, -0.1), "slices": drawn(hessian=surface())},
        ),
        ("C6b hidden_curvature", {"eigenpairs": eigenpairs(0.5), "visibility": sampled()}),
        # A network of which one artifact was not asked for.
        ("C3b single_projection", {"visibility": slices(9)}),
        ("C6b hidden_curvature", {"eigenpairs": eigenpairs(), "scores": parameters(9)}),
        # Zero mean curvature has no sign, and a trace of zero no relative bias.
        ("C2 apparent_sign", {"saddles": saddles(n5=sampled())}),
        ("C2 apparent_flatness", {"saddles": saddles(n5=sampled(trace=1.0))}),
        ("C2 apparent_flatness", {"visibility": sampled(trace_error=0.1)}),
        ("C4b smooth", {"trace_estimators": traces(reference=0.0)}),
        # Smooth and ReLU networks are held apart.
        ("C4b smooth", {"trace_estimators": traces(activation="relu")}),
        ("C4c relu", {"trace_estimators": traces()}),
        ("C4d corrected", {"trace_estimators": traces(kinks=30.0)}),
        # Where plain differences are right there is nothing to correct.
        ("C4d corrected", {"trace_estimators": traces(activation="relu", kinks=0.3)}),
        ("C1b drawn_curvature", {"apparent_curvature": discs(1.0)}),
        ("C7 size", {"eigenpairs": eigenpairs(), "scores": parameters(6_899_999)}),
        # Neither a minimum nor a maximum is a saddle.
        ("C8b lower_loss_at_saddles", {"critical_points": critical_point(planes(5), index=0)}),
        ("C8b lower_loss_at_saddles", {"critical_points": critical_point(planes(5), largest=0.0)}),
    ],
)
def test_no_subject(rule: str, artifacts: dict[str, xr.Dataset]) -> None:
    rows = decide(*rule.split(), evidence(**artifacts))
    assert rows.empty
    assert list(rows) == verdicts.ROW_COLUMNS


def test_claim_without_subjects_is_inconclusive() -> None:
    table = verdicts.decide_claims(
        verdicts.decide_rows(evidence(), RULES, claims.RULES), claims.CLAIMS
    )
    without = table[table["rule"] == "none"]
    assert set(without["claim"]) == set(claims.CLAIMS) - {"C6a"}
    assert (table["verdict"] == INCONCLUSIVE).all()
    assert (without["subject"] == "no subject in this profile").all()
    nothing = verdicts.decide_claims(pd.DataFrame(columns=verdicts.ROW_COLUMNS), claims.CLAIMS)
    assert (nothing["verdict"] == INCONCLUSIVE).all()
    assert list(nothing) == list(table)


def test_networks_and_saddles_are_subjects_by_name() -> None:
    two = {"first": sampled((1.0, 0.0, 1.0), trace=1.0), "second": sampled(trace=0.0)}
    rows = decide(
        "C1a", "expected_curvature", evidence(saddles=saddles(n5=sampled()), visibility=two)
    )
    assert list(rows["subject"]) == ["saddle ñ=5", "first", "second"]
    assert list(rows["artifact"]) == [
        "saddles.nc",
        "networks/first/visibility.nc",
        "networks/second/visibility.nc",
    ]


def test_estimates() -> None:
    """Statistics in the units that the configuration states."""
    half = sampled((4.0, 0.5, 2.0), trace=2.0, f=7.0)
    parts = evidence(
        saddles=saddles(n5=half),
        visibility=sampled(trace=20.0),
        eigenpairs=eigenpairs(-5.0, 50.0),
        scores=parameters(1000),
        trace_estimators=traces(bias=0.3, spread=0.0, ratio=2.0),
        slices=drawn(hessian=surface()),
    )
    rules = ("C1a expected_curvature", "C2 apparent_sign", "C3a expected_projection", "C4b smooth")
    values = [decide(*rule.split(), parts)["estimate"][0] for rule in rules]
    assert values == pytest.approx([1.0, 3.0, 4.0 * 2.0 - 0.25, 0.03])
    assert decide("C5", "rendered_saddle", parts)["estimate"][0] == pytest.approx(-0.25)
    hidden = decide("C6b", "hidden_curvature", parts)
    assert list(hidden["subject"]) == ["net, λ_min", "net, λ_max"]
    decades = [math.log10(curvature / (20 / 1000)) for curvature in (5, 50)]
    assert list(hidden["estimate"]) == pytest.approx(decades)
    size = decide("C7", "size", parts, n_parameters=10)
    assert size["estimate"][0] == pytest.approx(1e-3 / 5)


@pytest.mark.parametrize("other", [60, 250, 300])
def test_size_is_judged_over_most_images(other: int) -> None:
    """Eigenpairs over 100 images are joined by those over others, and 250 are wanted."""
    counted = xr.Dataset(
        {
            "n_images": ("count", [50, other]),
            "smallest": ("count", [-2.0, -5.0]),
            "smallest_residual": ("count", [1.0, 0.01]),
            "largest": ("count", [2.0, 50.0]),
            "largest_residual": ("count", [1.0, 0.2]),
        }
    )
    parts = evidence(
        eigenpairs=eigenpairs(-5.0, 50.0), image_counts=counted, scores=parameters(1000, 100)
    )
    (row,) = decide("C7", "size", parts, n_parameters=10, n_images=250).itertuples()
    if other < 250:
        assert (row.artifact, row.verdict) == ("networks/net/eigenpairs.nc", INCONCLUSIVE)
        assert row.estimate == pytest.approx(1e-3 / 5)
    else:
        assert (row.artifact, row.verdict) == (f"networks/net/image_counts/{other}.nc", REPRODUCED)
        assert row.estimate == pytest.approx(0.2 / 50)


# What is not a number decides nothing.

POISONED = {
    "C1a expected_curvature": [
        ("visibility", name) for name in ("projected_hessian", "trace", "trace_standard_error")
    ],
    "C2 apparent_sign": [
        ("visibility", name) for name in ("projected_hessian", "trace", "trace_standard_error")
    ],
    "C3a expected_projection": [("visibility", "projected_hessian")],
    "C3b single_projection": [("visibility", "projected_hessian"), ("eigenpairs", "value")],
    "C4b smooth": [("trace_estimators", "samples"), ("trace_estimators", "reference")],
    "C4c relu": [("trace_estimators", "samples"), ("trace_estimators", "reference_standard_error")],
    "C4a directional": [("trace_estimators", "samples"), ("trace_estimators", "reference")],
    "C6a random_flatness": [("population", "gap_loss"), ("population", "mean_curvature")],
    "C6b hidden_curvature": [("visibility", "trace"), ("eigenpairs", "value")],
    "C7 size": [("eigenpairs", "value"), ("eigenpairs", "residual")],
    "C8a lower_loss": [("lowest_losses", "lowest_loss"), ("lowest_losses", "hessian_lowest_loss")],
}


def poisoned(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """One number of a variable replaced by NaN."""
    values = np.array(dataset[name].values, dtype=float)
    # Of samples one of every estimator's, of pairs the largest, of members one that got there.
    if name == "samples":
        values[:, 0] = np.nan
    else:
        values.flat[-1] = np.nan
    return dataset.assign({name: (dataset[name].dims, values)})


@pytest.mark.parametrize(
    ("rule", "artifact", "name"),
    [(rule, *place) for rule, places in POISONED.items() for place in places],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_decides_nothing(rule: str, artifact: str, name: str) -> None:
    activation = "relu" if rule == "C4c relu" else "smooth"
    artifacts = {
        "visibility": slices(0),
        "eigenpairs": eigenpairs(),
        "scores": parameters(7_000_000),
        "trace_estimators": traces(spread=0.0, activation=activation),
        "lowest_losses": planes(0),
        "population": members(0.9, n_seeds=8),
    }
    healthy = decide(*rule.split(), evidence(**artifacts))
    assert set(healthy["verdict"]) <= {REPRODUCED, NOT_REPRODUCED}
    assert len(healthy)
    spoiled = artifacts | {artifact: poisoned(artifacts[artifact], name)}
    rows = decide(*rule.split(), evidence(**spoiled))
    if (artifact, name) == ("population", "gap_loss"):
        rows = rows[rows["subject"] == "t/N and gap_loss"]
    if rule.startswith("C6b"):
        rows = rows[~rows["subject"].str.startswith("population")]
    if artifact == "lowest_losses":
        rows = rows[rows["subject"] == "net, ρ = 1"]
    assert set(rows["verdict"]) <= {INCONCLUSIVE}
    # An undecided row alone neither fails nor blocks the table.
    assert set(verdicts.decide_claims(rows, claims.CLAIMS)["verdict"]) == {INCONCLUSIVE}


def test_zero_hessian_is_inconclusive() -> None:
    zero = sampled(spread=0.0).assign(frobenius_norm=0.0)
    parts = evidence(saddles=saddles(n5=zero), eigenpairs=eigenpairs(0.0, 0.0))
    for rule in ("C1a expected_curvature", "C3a expected_projection"):
        assert set(decide(*rule.split(), parts)["verdict"]) == {INCONCLUSIVE}


def test_residual_larger_than_the_weaker_curvature_is_no_error() -> None:
    """The positive end may be known less well than the negative end is deep."""
    pairs = eigenpairs(-0.5, 10.0)
    pairs["residual"][:] = [0.001, 0.1, 1.0]
    parts = evidence(eigenpairs=pairs, visibility=sampled(trace=1.0), scores=parameters(1000))
    rows = decide("C6b", "hidden_curvature", parts)
    assert list(rows["low"]) == pytest.approx([math.log10(499), math.log10(9000)])
    assert set(rows["verdict"]) == {REPRODUCED}


# Deciding.


@pytest.mark.parametrize(
    ("interval", "side", "verdict"),
    [
        ((1.1, 2.0), "above", REPRODUCED),
        ((1.0, 2.0), "above", INCONCLUSIVE),
        ((0.5, 0.9), "above", NOT_REPRODUCED),
        ((0.5, 0.9), "below", REPRODUCED),
        ((1.1, 2.0), "below", NOT_REPRODUCED),
        ((0.9, 1.1), "below", INCONCLUSIVE),
        ((-0.9, 0.9), "inside", REPRODUCED),
        ((-0.5, 1.1), "inside", INCONCLUSIVE),
        ((1.1, 2.0), "inside", NOT_REPRODUCED),
        ((-2.0, -1.1), "inside", NOT_REPRODUCED),
        ((-2.0, 2.0), "inside", INCONCLUSIVE),
        # An end at infinity is not known, the other one still counts.
        ((1.1, math.inf), "above", REPRODUCED),
        ((-math.inf, 0.9), "above", NOT_REPRODUCED),
        ((0.9, math.inf), "above", INCONCLUSIVE),
        ((-math.inf, math.inf), "inside", INCONCLUSIVE),
        *(
            (interval, side, INCONCLUSIVE)
            for side in ("above", "below", "inside")
            for interval in [
                (math.nan, math.nan),
                (math.nan, 0.0),
                (2.0, math.nan),
                (math.inf, math.inf),
                (-math.inf, -math.inf),
            ]
        ),
    ],
)
def test_decide(interval: tuple[float, float], side: str, verdict: str) -> None:
    assert verdicts.decide(interval, side, 1.0) == verdict


def test_combine() -> None:
    assert verdicts.combine([]) == INCONCLUSIVE
    assert verdicts.combine([REPRODUCED, REPRODUCED]) == REPRODUCED
    assert verdicts.combine([REPRODUCED, INCONCLUSIVE]) == INCONCLUSIVE
    assert verdicts.combine([REPRODUCED, INCONCLUSIVE, NOT_REPRODUCED]) == NOT_REPRODUCED


def test_many_rows_refute_at_a_confidence_of_all_together() -> None:
    """Each of five rows has the stated confidence where it holds, a fifth of its error where not."""
    n = 200
    twins = {f"net{i}": sampled((1.0, 0.0, 1.0), n=n, trace=1.0) for i in range(4)}
    wrong = sampled((4.0, 0.0, 4.0), n=n, trace=1.0)
    rows = decide("C1a", "expected_curvature", evidence(visibility=twins | {"wrong": wrong}))
    assert list(rows["confidence"]) == pytest.approx([0.95] * 4 + [0.99])
    widths = (rows["high"] - rows["low"]).to_numpy()
    quantiles = stats.t.ppf([1 - 0.025, 1 - 0.025 / 5], 2 * n - 1)
    assert widths[-1] / widths[0] == pytest.approx(quantiles[1] / quantiles[0])
    assert list(rows["verdict"]) == [REPRODUCED] * 4 + [NOT_REPRODUCED]


def test_a_row_without_power_still_finds_what_is_false() -> None:
    """Ten slices, all of which show the saddle, are too few to speak for "rarely", and enough against."""
    parts = evidence(visibility=slices(10, n=10), eigenpairs=eigenpairs())
    (row,) = decide("C3b", "single_projection", parts).to_dict("records")
    assert row["power"] < verdicts.LEAST_POWER
    assert row["verdict"] == NOT_REPRODUCED


def test_a_row_without_power_speaks_for_nothing() -> None:
    """Too few slices would not find the claim false where twice the threshold show the saddle."""
    for n, verdict in [(400, REPRODUCED), (40, INCONCLUSIVE)]:
        parts = evidence(visibility=slices(0, n=n), eigenpairs=eigenpairs())
        (row,) = decide("C3b", "single_projection", parts).to_dict("records")
        assert row["verdict"] == verdict
        assert (row["power"] >= verdicts.LEAST_POWER) == (verdict == REPRODUCED)
        assert verdicts.decide((row["low"], row["high"]), "below", 0.1) == REPRODUCED


@pytest.mark.parametrize(("power", "error"), [(0.5, 0.15), (0.78, 0.03), (0.82, 0.03), (1.0, 0.0)])
def test_power_is_known_to_three_errors(power: float, error: float) -> None:
    """Of 100 worlds far from the least power, of 2,000 near it."""

    def false(random: np.random.Generator) -> IntervalAt:
        found = random.random() < power
        return lambda confidence: (-2.0, -1.0) if found else (-2.0, 1.0)

    def rows(evidence: object, rule: verdicts.Rule) -> Iterator[verdicts.Row]:
        yield verdicts.Row("a network", 1.0, lambda confidence: (1.0, 1.0), "scores.nc", false)

    rule = {"statistic": "x", "side": "above", "threshold": 0.0, "confidence": 0.95}
    declared = {"C8a": {"own": verdicts.Declared("x", "above", rows, "x is −1.5")}}
    (found,) = verdicts.decide_rows(None, {"C8a": {"own": rule}}, declared).to_dict("records")
    assert found["power"] == pytest.approx(power, abs=error)
    assert found["verdict"] == (REPRODUCED if power > verdicts.LEAST_POWER else INCONCLUSIVE)


def row(subject: str, low: float, high: float, verdict: str, side: str = "above") -> dict[str, Any]:
    return {
        "claim": "C8a",
        "rule": f"rule of {subject}",
        "subject": subject,
        "statistic": "s",
        "estimate": (low + high) / 2,
        "low": low,
        "high": high,
        "confidence": 0.95,
        "side": side,
        "threshold": 1.0,
        "verdict": verdict,
        "artifact": f"{subject}.nc",
    }


@pytest.mark.parametrize(
    ("deciding", "verdict", "given"),
    [
        # Reproduced: the row closest to failing, in units of what is uncertain about it.
        ("near", REPRODUCED, [("far", 9.0, 11.0, REPRODUCED), ("near", 2.0, 6.0, REPRODUCED)]),
        # Not reproduced: the clearest failure, whatever the others say.
        (
            "clearly",
            NOT_REPRODUCED,
            [
                ("good", 2.0, 3.0, REPRODUCED),
                ("hardly", 0.0, 0.9, NOT_REPRODUCED),
                ("clearly", -3.0, -2.0, NOT_REPRODUCED),
                ("open", 0.0, 2.0, INCONCLUSIVE),
            ],
        ),
        # Inconclusive: an open row, not a better one; a number before none.
        (
            "more open",
            INCONCLUSIVE,
            [
                ("good", 2.0, 3.0, REPRODUCED),
                ("unknown", math.nan, math.nan, INCONCLUSIVE),
                ("open", 0.5, 2.0, INCONCLUSIVE),
                ("more open", -0.5, 1.1, INCONCLUSIVE),
            ],
        ),
        ("unknown", INCONCLUSIVE, [("unknown", math.nan, math.nan, INCONCLUSIVE)]),
        *(
            (deciding, REPRODUCED, [(*one, REPRODUCED, side), (*other, REPRODUCED, side)])
            for deciding, side, one, other in [
                ("low", "inside", ("low", -0.9, -0.7), ("centre", -0.1, 0.1)),
                ("close", "below", ("small", 0.1, 0.2), ("close", 0.7, 0.9)),
                # Bounds that hold for certain have no width.
                ("worst", "below", ("worst", 0.009, 0.009), ("best", 0.001, 0.001)),
            ]
        ),
    ],
)
def test_deciding_row(deciding: str, verdict: str, given: list[tuple[Any, ...]]) -> None:
    rows = [row(*one) for one in given]
    for order in (rows, rows[::-1]):
        table = verdicts.decide_claims(pd.DataFrame(order), claims.CLAIMS).set_index("claim")
        decided = table.loc["C8a"]
        assert (decided["subject"], decided["verdict"]) == (deciding, verdict)
        assert decided["artifact"] == f"{deciding}.nc"
        assert decided["rule"] == f"rule of {deciding}"
        counts = [list(pd.DataFrame(rows)["verdict"]).count(kind) for kind in _KINDS.values()]
        assert list(decided[list(_KINDS)]) == counts


_KINDS = {
    "n_reproduced": REPRODUCED,
    "n_not_reproduced": NOT_REPRODUCED,
    "n_inconclusive": INCONCLUSIVE,
}


# Intervals cover the truth as often as they say, whatever their power.


@pytest.fixture
def one_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "N_WORLDS", (1,))


def wishart_saddles(n_saddles: int, n_samples: int, spectrum: list[float]) -> xr.Dataset:
    """Projected Hessians of a small known spectrum, over and over."""
    values = np.array(spectrum)
    random = np.random.default_rng(1)
    w = random.standard_normal((n_saddles, n_samples, len(values), 2))
    matrices = np.einsum("ksia,i,ksib->ksab", w, values, w, optimize=True)
    return xr.Dataset(
        {
            "projected_hessian": (("saddle", "sample", "row", "column"), matrices),
            "trace": ("saddle", np.full(n_saddles, values.sum())),
            "frobenius_norm": ("saddle", np.full(n_saddles, np.linalg.norm(values))),
        },
        coords={"saddle": np.arange(n_saddles)},
    )


def coverage(rows: pd.DataFrame, truth: float) -> float:
    return float(((rows["low"] <= truth) & (truth <= rows["high"])).mean())


SPECTRA = {
    "bulk": [0.5, -0.3] * 15 + [0.2] * 10,
    "traceless": [1.0, -1.0] * 15,
    "outliers": [10.0, -2.0] + [0.5, -0.3] * 10,
}


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.usefixtures("one_world")
def test_coverage_of_sampled_curvature(spectrum: str, confidence: float) -> None:
    """The mean over planes against the trace, and the determinant of the mean matrix."""
    values = np.array(SPECTRA[spectrum])
    parts = evidence(saddles=wishart_saddles(500, 150, list(values)))
    numbers = {"confidence": confidence}
    # Three standard errors, and the skewness of a curvature that one outlier dominates.
    tolerance = 3 * math.sqrt(confidence * (1 - confidence) / 500) + 0.01
    mean = decide("C1a", "expected_curvature", parts, **numbers)
    assert coverage(mean, 0.0) == pytest.approx(confidence, abs=tolerance)
    determinant = decide("C3a", "expected_projection", parts, **numbers)
    truth = values.sum() ** 2 / np.linalg.norm(values) ** 2
    covered = coverage(determinant, truth)
    if spectrum == "traceless":  # no slope at the truth: the delta method errs on the safe side
        assert covered >= confidence
    else:
        assert covered == pytest.approx(confidence, abs=tolerance + 0.01)


@pytest.mark.usefixtures("one_world")
def test_coverage_with_an_estimated_reference() -> None:
    values = np.array(SPECTRA["bulk"])
    dataset, f = wishart_saddles(600, 40, list(values)), np.linalg.norm(values)
    random = np.random.default_rng(2)
    networks = {
        f"net{k}": dataset.isel(saddle=k).assign(
            trace=values.sum() + 0.3 * f * random.standard_normal(), trace_standard_error=0.3 * f
        )
        for k in range(600)
    }
    rows = decide("C1a", "expected_curvature", evidence(visibility=networks))
    assert coverage(rows, 0.0) == pytest.approx(0.95, abs=0.03)
    signs = decide("C2", "apparent_sign", evidence(visibility=networks))
    assert (signs["verdict"] != NOT_REPRODUCED).all()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.usefixtures("one_world")
def test_coverage_of_shares(share: float) -> None:
    """Exactly, over all counts: Clopper and Pearson's interval covers at least as it says."""
    n = 60
    networks = {f"net{k}": planes(k, n) for k in range(n + 1)}
    rows = decide("C8a", "lower_loss", evidence(lowest_losses=networks))[::3]  # of one radius
    covers = (rows["low"] <= share) & (share <= rows["high"])
    covered = stats.binom.pmf(np.arange(n + 1), n, share)[covers.values].sum()
    assert 0.95 <= covered <= 0.995


@pytest.mark.usefixtures("one_world")
def test_coverage_of_the_relative_bias() -> None:
    """The trace that the bias is relative to is itself an estimate."""
    random = np.random.default_rng(3)
    networks = {}
    for k in range(400):
        dataset = traces(n=30, reference=10.0 + random.standard_normal(), error=1.0)
        samples = dataset["samples"].values
        samples[0, :30] = samples[1, :30] + 1.0 + 2.0 * random.standard_normal(30)
        networks[f"net{k}"] = dataset
    rows = decide("C4b", "smooth", evidence(trace_estimators=networks))
    assert coverage(rows, 1.0 / 10.0) >= 0.95


# All rules on artifacts as the stages write them.


def test_all_rules_on_a_whole_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "N_WORLDS", (20,))
    kinds = {"resnet": "relu", "mlp": "smooth"}
    of_networks = ("scores", "eigenpairs", "visibility", "trace_estimators", "lowest_losses")
    of_networks += ("apparent_curvature",)
    population = made("population")
    parts = Evidence(
        saddles=made("saddles"),
        saddle_traces=made("saddle_traces"),
        population=population.assign(reached=population["reached"].astype(bool)),
        critical_points=made("critical_points"),
        slices={net: fabricate.slices(kinds[net]) for net in kinds},
        image_counts={net: fabricate.image_counts(kinds[net]) for net in kinds},
        **{name: {net: made(name, kinds[net]) for net in kinds} for name in of_networks},
    )
    rows = verdicts.decide_rows(parts, RULES, claims.RULES)
    assert list(rows) == verdicts.ROW_COLUMNS
    found = list(dict.fromkeys(zip(rows["claim"], rows["rule"])))
    assert found == [rule for rule in RULES_IN_ORDER if rule != ("C7", "size")]
    assert set(rows["verdict"]) <= {REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE}
    assert (rows["low"] <= rows["high"]).all()
    assert rows["estimate"].between(rows["low"], rows["high"]).all()
    pd.testing.assert_frame_equal(rows, verdicts.decide_rows(parts, RULES, claims.RULES))
    table = verdicts.decide_claims(rows, claims.CLAIMS)
    assert list(table["claim"]) == list(claims.CLAIMS)
    assert list(table["text"]) == [said.text for said in claims.CLAIMS.values()]
    for _, claim in table[table["rule"] != "none"].iterrows():
        same = (rows["claim"] == claim["claim"]) & (rows["subject"] == claim["subject"])
        assert claim["estimate"] in set(rows[same]["estimate"])
