"""Published numbers beside computed ones: what agrees, what does not, and what is said about it."""

import math
import re
from pathlib import Path
from typing import Any

import fabricate
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hessian_directions.analyses import registry
from hessian_directions.errors import ConfigurationError
from hessian_directions.reporting import tables
from hessian_directions.reproduction import artifacts, comparison
from hessian_directions.reproduction.comparison import OtherNetworks

LOOSE = {"relative": 0.1, "absolute": 1e-3}
EXACT = {"relative": 0.0, "absolute": 0.0}


def networks(**changes: list) -> pd.DataFrame:
    columns: dict[str, list] = {
        "network": ["resnet", "mlp"],
        "label": ["ResNet-8", "Perceptron"],
        "n_parameters": [1000, 500],
        "trace": [10.0, -2.0],
        "test_accuracy": [0.9, math.nan],
        "converged": [True, False],
    }
    return pd.DataFrame(columns | changes)


def compare(old: pd.DataFrame, new: pd.DataFrame, **tolerances: Any) -> pd.DataFrame:
    return comparison.compare_tables(
        {"networks": old}, {"networks": new}, {"networks": LOOSE} | tolerances
    )


def disagreeing(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(rows.loc[~rows["agrees"], ["quantity", "row"]].itertuples(index=False, name=None))


# Cells.


def test_equal_tables_agree() -> None:
    rows = compare(networks(), networks())
    assert rows["agrees"].dtype == bool
    assert rows["agrees"].all()
    columns = ["n_parameters", "trace", "test_accuracy", "converged"]
    expected = [(f"networks.{column}", row) for column in columns for row in ("resnet", "mlp")]
    assert list(rows[["quantity", "row"]].itertuples(index=False, name=None)) == expected


@pytest.mark.parametrize(
    ("published", "computed", "agrees"),
    [
        (10.0, 11.0, True),
        (10.0, 9.0, True),
        (10.0, 11.01, False),
        (10.0, -10.0, False),
        (-10.0, -11.0, True),
        (-10.0, -11.01, False),
        (0.0, 9e-4, True),
        (0.0, 2e-3, False),
        # The published number decides how far one may be off.
        (1.0, 1.1, True),
        (1.1, 1.0, True),
        (0.5, 0.56, False),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (math.inf, 1.0, False),
        (1.0, math.inf, False),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (1.0, math.nan, False),
    ],
)
def test_one_number(published: float, computed: float, agrees: bool) -> None:
    rows = compare(networks(trace=[published, 1.0]), networks(trace=[computed, 1.0]))
    cell = rows[rows["quantity"] == "networks.trace"].iloc[0]
    assert cell["agrees"] == agrees
    np.testing.assert_equal([cell["published"], cell["computed"]], [published, computed])
    if math.isfinite(published):
        assert cell["tolerance"] == pytest.approx(1e-3 + 0.1 * abs(published))


def test_tolerance_of_a_column_before_that_of_its_table() -> None:
    old, new = networks(), networks(n_parameters=[1001, 500], trace=[10.5, -2.0])
    assert disagreeing(compare(old, new)) == []
    strict = {"networks.n_parameters": EXACT}
    assert disagreeing(compare(old, new, **strict)) == [("networks.n_parameters", "resnet")]
    # A column's own tolerance may also be the wider one.
    wide = {"networks": EXACT, "networks.n_parameters": LOOSE}
    assert disagreeing(compare(old, new, **wide)) == [("networks.trace", "resnet")]


def test_tolerance_that_nobody_states() -> None:
    sentence = "^key 'comparison' states no tolerance for networks.n_parameters, nor for networks$"
    with pytest.raises(ConfigurationError, match=sentence):
        comparison.compare_tables({"networks": networks()}, {"networks": networks()}, {})


def test_true_and_false_are_compared() -> None:
    rows = compare(networks(), networks(converged=[False, False]))
    assert disagreeing(rows) == [("networks.converged", "resnet")]


def test_texts_are_not_compared() -> None:
    new = networks(label=["other", "labels"])
    rows = compare(networks(), new)
    assert rows["agrees"].all()
    assert not rows["quantity"].str.contains("label|network$").any()


def test_missing_column_disagrees() -> None:
    rows = compare(networks(), networks().drop(columns="trace"))
    assert disagreeing(rows) == [("networks.trace", "resnet"), ("networks.trace", "mlp")]
    # A column that was not published has nothing to be compared with.
    assert compare(networks(), networks(new=[1.0, 2.0]))["agrees"].all()


@pytest.mark.parametrize("turned", [False, True])
def test_missing_row_disagrees_and_others_still_match(turned: bool) -> None:
    old, new = networks(), networks().iloc[1:]
    if turned:
        old, new = new, old
    rows = compare(old, new)
    missing = {row for _, row in disagreeing(rows)}
    assert missing == {"resnet"}
    assert rows.loc[rows["row"] == "mlp", "agrees"].all()


def test_order_of_named_rows_does_not_matter() -> None:
    rows = compare(networks(), networks().iloc[::-1])
    assert rows["agrees"].all()


def test_missing_table_disagrees() -> None:
    rows = comparison.compare_tables({"networks": networks()}, {}, {"networks": LOOSE})
    # What was published as not a number is no more missing than before.
    assert set(disagreeing(rows)) == {
        (quantity, row)
        for quantity, row in rows[["quantity", "row"]].itertuples(index=False, name=None)
        if (quantity, row) != ("networks.test_accuracy", "mlp")
    }


def test_text_where_a_number_was_published_disagrees() -> None:
    rows = compare(networks(), networks(trace=["none", -2.0]))
    assert disagreeing(rows) == [("networks.trace", "resnet")]


def test_rows_named_alike_are_matched_in_order() -> None:
    steps = pd.DataFrame({"network": ["mlp"] * 3, "step": [0.1, 0.2, 0.3], "gap": [1.0, 2.0, 3.0]})
    other = steps.assign(gap=[1.0, 2.0, 4.0])
    rows = comparison.compare_tables({"steps": steps}, {"steps": other}, {"steps": LOOSE})
    assert disagreeing(rows) == [("steps.gap", "mlp 2")]
    unnamed = comparison.compare_tables(
        {"steps": steps[["gap"]]}, {"steps": other[["gap"]].iloc[:2]}, {"steps": LOOSE}
    )
    assert list(unnamed["row"]) == ["0", "1", "2"]
    assert disagreeing(unnamed) == [("steps.gap", "2")]


def test_two_texts_name_a_row_together() -> None:
    traces = pd.DataFrame(
        {
            "subject": ["mlp", "mlp", "resnet"],
            "estimator": ["hutchinson", "deflated", "hutchinson"],
            "activation": ["smooth", "smooth", "relu"],
            "mean": [1.0, 2.0, 3.0],
        }
    )
    other = traces.iloc[[2, 0]].assign(activation="unknown")
    rows = comparison.compare_tables({"traces": traces}, {"traces": other}, {"traces": LOOSE})
    assert disagreeing(rows) == [("traces.mean", "mlp deflated")]


def test_what_varies_from_run_to_run_is_not_compared() -> None:
    old = networks(seconds=[1.0, 2.0])
    rows = comparison.compare_tables(
        {"networks": old, "cost": old},
        {"networks": networks(seconds=[5.0, 9.0]), "cost": old * 2},
        {"networks": LOOSE},
    )
    assert rows["agrees"].all()
    assert not rows["quantity"].str.contains("seconds|cost").any()


def test_tables_survive_their_files(tmp_path: Path) -> None:
    """Compared are the published CSV files."""
    table = networks(trace=[1 / 3, 2e30 / 3])
    artifacts.write_table(tmp_path / "t.csv", table)
    rows = compare(pd.read_csv(tmp_path / "t.csv"), table, networks=dict(LOOSE, relative=1e-9))
    assert rows["agrees"].all()


# Networks that training made otherwise here.


def weights(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {"weight": np.eye(2, dtype=np.float32), "count": np.array(7)} | changes


def population(*norms: float) -> xr.Dataset:
    return xr.Dataset({"theta_norm": ("member", list(norms))})


NEXT = np.nextafter(np.float32(1), np.float32(2))


@pytest.mark.parametrize(
    ("here", "is_other"),
    [
        (weights(), False),
        (weights(weight=np.eye(2, dtype=np.float32) * NEXT), True),
        (weights(weight=np.eye(2)), True),
        (weights(weight=np.eye(3, dtype=np.float32)), True),
        (weights(more=np.zeros(1)), True),
    ],
)
def test_another_network_is_one_of_other_weights(
    here: dict[str, np.ndarray], is_other: bool
) -> None:
    one = population(1.0)
    others = OtherNetworks.between(
        {"resnet": weights(), "mlp": weights()}, {"resnet": here, "mlp": weights()}, one, one
    )
    assert list(others.networks) == ["resnet"] * is_other
    assert (others.n_networks, others.members, others.n_members) == (2, 0, 1)
    assert str(others) == ("1 of 2" if is_other else "")


def test_members_of_the_population_are_told_by_their_norm() -> None:
    """Rounding of the norm itself makes no other member."""
    here = population(1.0 + 1e-14, 2.0 + 1e-9, 3.0)
    others = OtherNetworks.between({}, {}, population(1.0, 2.0, 3.0), here)
    assert str(others) == "1 of 3 in the population"
    others = OtherNetworks.between({}, {}, population(1.0, 2.0), here)
    assert others.members == 3


OTHERS = OtherNetworks(["resnet"], n_networks=2)


def deviating(new: pd.DataFrame, others: OtherNetworks = OTHERS) -> pd.DataFrame:
    rows = comparison.compare_tables(
        {"networks": networks()}, {"networks": new}, {"networks": LOOSE}, others
    )
    return rows[~rows["agrees"]]


def test_numbers_of_other_networks_are_expected_to_deviate() -> None:
    rows = deviating(networks(trace=[99.0, 99.0]))
    assert list(rows[["row", "expected"]].itertuples(index=False, name=None)) == [
        ("resnet", True),
        ("mlp", False),
    ]
    assert not deviating(networks(trace=[99.0, 99.0]), OtherNetworks())["expected"].any()
    # What agrees needs no reason.
    rows = comparison.compare_tables(
        {"networks": networks()}, {"networks": networks()}, {"networks": LOOSE}, OTHERS
    )
    assert not rows["expected"].any()


@pytest.mark.parametrize(
    "new",
    [
        # No training changes how many parameters there are.
        networks(n_parameters=[2000, 500]),
        networks(trace=[math.nan, -2.0]),
        networks(trace=[math.inf, -2.0]),
        networks().iloc[1:],
        networks().drop(columns="trace").assign(more=1.0).iloc[[1, 0]],
    ],
)
def test_what_no_training_explains_is_not_expected(new: pd.DataFrame) -> None:
    rows = deviating(new)
    assert len(rows)
    assert not rows["expected"].any()


def test_saddles_and_the_population() -> None:
    traces = pd.DataFrame({"subject": ["resnet", "saddle 20"], "estimator": "hutchinson"})
    old = {
        "traces": traces.assign(mean=1.0),
        "saddles": pd.DataFrame({"n_positive": [20], "r": [1.0]}),
        "levels": pd.DataFrame({"factor": ["width"], "level": [8], "gap_loss": [1.0]}),
    }
    new = {name: table.copy() for name, table in old.items()}
    new["traces"]["mean"], new["saddles"]["r"], new["levels"]["gap_loss"] = 9.0, 9.0, 9.0
    new["levels"]["level"] = 16
    tolerances = dict.fromkeys(old, LOOSE)

    def expected(others: OtherNetworks) -> list[str]:
        rows = comparison.compare_tables(old, new, tolerances, others)
        assert (~rows["agrees"]).sum() == 5  # n_positive alone agrees
        chosen = rows[rows["expected"]]
        return [f"{q} {r}".strip() for q, r in zip(chosen["quantity"], chosen["row"])]

    assert expected(OTHERS) == ["traces.mean resnet hutchinson"]
    assert expected(OtherNetworks(members=1, n_members=8)) == ["levels.gap_loss width"]


def test_settings_are_columns_of_the_published_tables() -> None:
    """A name that no table has would excuse nothing and be noticed by nobody."""
    record = dict.fromkeys(("rule", "wall_seconds", "cpu_seconds", "peak_memory_bytes"), 1)
    given = {
        "labels": {"net": "Net"},
        "history": {"net": fabricate.history()},
        "image_counts": {"net": fabricate.image_counts()},
        "passes_record": {"net": fabricate.passes(100)},
        "trace_estimators_record": {"net": {"seconds": {}}},
        "saddle_traces_record": {"seconds": {}},
        "records": {"a.run.json": record},
    }
    columns = set()
    for name, make in tables.TABLES.items():
        for read in tables.reads(name):
            if read not in given:
                one = fabricate.made(read)
                given[read] = one if read in registry.OF_PROFILES else {"net": one}
        made = make(**{read: given[read] for read in tables.reads(name)})
        assert len(made), name
        columns |= {*made.columns, *(f"{name}.{column}" for column in made.columns)}
    assert columns >= comparison.SETTINGS


# Verdicts.


def verdicts(**given: str) -> pd.DataFrame:
    return pd.DataFrame({"claim": list(given), "verdict": list(given.values()), "text": "…"})


@pytest.mark.parametrize(
    ("published", "here", "result"),
    [
        ("reproduced", "reproduced", "same"),
        ("not reproduced", "not reproduced", "same"),
        ("inconclusive", "inconclusive", "same"),
        ("reproduced", "inconclusive", "warning"),
        ("inconclusive", "not reproduced", "warning"),
        ("reproduced", "not reproduced", "failure"),
        ("not reproduced", "reproduced", "failure"),
    ],
)
def test_verdict(published: str, here: str, result: str) -> None:
    merged = comparison.compare_verdicts(verdicts(C1=published), verdicts(C1=here))
    assert merged.to_dict("records") == [
        {
            "claim": "C1",
            "verdict_published": published,
            "verdict_computed": here,
            "result": result,
        }
    ]


def test_missing_verdict_is_a_failure() -> None:
    """Even beside one that decided nothing."""
    merged = comparison.compare_verdicts(
        verdicts(C1="reproduced", C2="inconclusive"), verdicts(C2="inconclusive", C3="inconclusive")
    ).set_index("claim")
    assert dict(merged["result"]) == {"C1": "failure", "C2": "same", "C3": "failure"}
    assert merged.loc["C1", "verdict_computed"] == "missing"


# Plain words.


def summary(others: OtherNetworks, trace: list[float], verdict: str) -> list[str]:
    """What is said of a trace and of the first verdict, published as 10, −2 and reproduced."""
    numbers = comparison.compare_tables(
        {"networks": networks()}, {"networks": networks(trace=trace)}, {"networks": LOOSE}, others
    )
    published = verdicts(C1="reproduced", C2="inconclusive")
    merged = comparison.compare_verdicts(published, verdicts(C1=verdict, C2="inconclusive"))
    return comparison.summary(numbers, merged, others).splitlines()


HERE, GOOD, ONE, BOTH = OtherNetworks(), [10.0, -2.0], [99.0, -2.0], [99.0, 99.0]
ALL_VERDICTS = " published numbers and all verdicts."
NOT = "This machine did NOT reproduce everything: "


@pytest.mark.parametrize(
    ("others", "trace", "verdict", "last"),
    [
        (HERE, GOOD, "reproduced", ["This machine reproduced all 8" + ALL_VERDICTS]),
        (HERE, ONE, "reproduced", [NOT + "1 of 8 numbers are"]),
        (HERE, GOOD, "not reproduced", [NOT + "0 of 8 numbers .* 1 verdicts are opposite or miss"]),
        # Numbers agree and no verdict is opposite, but not all verdicts are the same.
        (
            HERE,
            GOOD,
            "inconclusive",
            [
                "This machine reproduced all 8 published numbers.",
                "Warning: 1 verdicts are decided on one side and inconclusive on",
            ],
        ),
        (
            OTHERS,
            ONE,
            "reproduced",
            [
                "Training gave other networks here than in the archive: 1 of 2. Processors round "
                "differently, and training amplifies it.",
                "1 numbers measured on those networks are outside their tolerance. That is expec",
                "This machine reproduced the other 7" + ALL_VERDICTS,
            ],
        ),
        # Other networks whose numbers agree are said, too.
        (
            OTHERS,
            GOOD,
            "reproduced",
            ["Training gave other networks", "This machine reproduced all 8" + ALL_VERDICTS],
        ),
        (
            OTHERS,
            BOTH,
            "reproduced",
            [
                "  networks.trace mlp: published -2, here 99",
                NOT + "1 of 8 numbers are outside their tolerance without that reason, 0 verdicts",
            ],
        ),
        (OTHERS, ONE, "not reproduced", [NOT + "0 of 8 numbers"]),
    ],
)
def test_summary(others: OtherNetworks, trace: list[float], verdict: str, last: list[str]) -> None:
    lines = summary(others, trace, verdict)
    for line, start in zip(lines[-len(last) :], last, strict=True):
        assert re.match(start, line), line
    n_good = 8 - sum(new != old for new, old in zip(trace, GOOD, strict=True))
    assert lines[0].split() == [
        "networks",
        str(n_good),
        *["of", "8", "numbers", "within", "tolerance"],
    ]
    said = {"reproduced": "same", "inconclusive": "warning", "not reproduced": "failure"}[verdict]
    assert lines[1].endswith(f"published: reproduced; here: {verdict} ({said})")


def test_summary_of_nothing() -> None:
    numbers = comparison.compare_tables({}, {}, {})
    text = comparison.summary(numbers, comparison.compare_verdicts(verdicts(), verdicts()))
    assert text == "This machine reproduced all 0 published numbers and all verdicts."
