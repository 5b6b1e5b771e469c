"""Published numbers beside computed ones: what agrees, what does not, and what is said about it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hessian_directions import artifacts, comparison
from hessian_directions.errors import ConfigurationError

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


def summary(new: pd.DataFrame, **here: str) -> list[str]:
    published = verdicts(C1="reproduced", C2="inconclusive")
    merged = comparison.compare_verdicts(
        published, verdicts(**{"C1": "reproduced", "C2": "inconclusive"} | here)
    )
    return comparison.summary(compare(networks(), new), merged).splitlines()


def test_summary_of_success() -> None:
    lines = summary(networks())
    assert lines[-1] == "This machine reproduced all 8 published numbers and all verdicts."
    assert lines[0].split() == ["networks", "8", "of", "8", "numbers", "within", "tolerance"]
    assert "C1" in lines[1]
    assert lines[1].endswith("published: reproduced; here: reproduced (same)")


def test_summary_of_numbers_that_disagree() -> None:
    lines = summary(networks(trace=[99.0, -2.0]))
    assert lines[-1].startswith("This machine did NOT reproduce everything: 1 of 8 numbers are")
    assert "reproduced all" not in "\n".join(lines)
    assert lines[0].split()[:4] == ["networks", "7", "of", "8"]


def test_summary_of_opposite_verdicts() -> None:
    lines = summary(networks(), C1="not reproduced")
    assert "did NOT reproduce everything: 0 of 8 numbers" in lines[-1]
    assert lines[-1].endswith("1 verdicts are opposite or missing.")


def test_summary_with_a_warning() -> None:
    """Numbers agree and no verdict is opposite, but not all verdicts are the same."""
    lines = summary(networks(), C2="reproduced")
    assert lines[-2] == "This machine reproduced all 8 published numbers."
    assert lines[-1].startswith("Warning: 1 verdicts are decided on one side and inconclusive on")


def test_summary_of_nothing() -> None:
    numbers = comparison.compare_tables({}, {}, {})
    text = comparison.summary(numbers, comparison.compare_verdicts(verdicts(), verdicts()))
    assert text == "This machine reproduced all 0 published numbers and all verdicts."
