"""Published numbers beside computed ones: what agrees, what does not, and what is said about it."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import fabricate
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from project import ROOT

from hessian_directions.analyses import registry
from hessian_directions.errors import ConfigurationError
from hessian_directions.reporting import tables
from hessian_directions.reproduction import artifacts, comparison, quantities, scales
from hessian_directions.reproduction.comparison import POPULATION
from hessian_directions.reproduction.replicates import Acceptance
from hessian_directions.reproduction.rounding import Scale

Tables = dict[str, pd.DataFrame]

# What rounding is relative to is tested in test_rounding.
SCALES = dict.fromkeys(["", "resnet", "mlp", POPULATION], Scale(100, norm=1.0, frobenius=10.0))


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


def compare_tables(
    old: Tables, new: Tables, others: Collection[str] = (), runs: Sequence[Tables] = ()
) -> pd.DataFrame:
    return comparison.compare_tables(old, new, SCALES, others, runs)[0]


def compare(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    return compare_tables({"networks": old}, {"networks": new})


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
        (10.0, 10.0 * (1 + 1e-10), True),
        (10.0, 10.0 * (1 + 1e-8), False),
        (10.0, -10.0, False),
        (-10.0, -10.0 * (1 + 1e-10), True),
        (0.0, 1e-15, True),
        (0.0, 1e-12, False),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (1.0, math.nan, False),
        (math.inf, math.inf, True),
        (math.inf, 1.0, False),
        (1.0, math.inf, False),
    ],
)
def test_one_number(published: float, computed: float, agrees: bool) -> None:
    rows = compare(networks(trace=[published, 1.0]), networks(trace=[computed, 1.0]))
    cell = rows[rows["quantity"] == "networks.trace"].iloc[0]
    assert cell["agrees"] == agrees
    assert cell["decisive"] != agrees
    np.testing.assert_equal([cell["published"], cell["computed"]], [published, computed])


def test_residuals_may_shrink_but_not_grow() -> None:
    old = networks(largest=[2.0, 1.0], largest_residual=[1e-9, 0.0])
    assert compare(old, old.assign(largest_residual=[0.0, 0.0]))["agrees"].all()
    rows = compare(old, old.assign(largest_residual=[1e-3, 0.0]))
    # The eigenvalue's own interval is wide then: this is what notices it.
    assert disagreeing(rows) == [("networks.largest_residual", "resnet")]


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
    assert compare(networks(), networks(loss=[1.0, 2.0]))["agrees"].all()


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
    rows = compare_tables({"networks": networks()}, {})
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
    rows = compare_tables({"step_sizes": steps}, {"step_sizes": other})
    assert disagreeing(rows) == [("step_sizes.gap", "mlp 2")]
    few = {"step_sizes": other[["gap"]].iloc[:2]}
    unnamed = compare_tables({"step_sizes": steps[["gap"]]}, few)
    assert list(unnamed["row"]) == ["0", "1", "2"]
    assert disagreeing(unnamed) == [("step_sizes.gap", "2")]


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
    rows = compare_tables({"traces": traces}, {"traces": other})
    assert disagreeing(rows) == [("traces.mean", "mlp deflated")]


def test_what_varies_from_run_to_run_is_not_compared() -> None:
    old, new = networks(n_products=[30, 40]), networks(n_products=[31, 40])
    rows = compare_tables({"networks": old, "cost": old}, {"networks": new, "cost": old})
    assert rows["agrees"].all()
    assert not rows["quantity"].str.contains("n_products|cost").any()


def test_tables_survive_their_files(tmp_path: Path) -> None:
    """Compared are the published CSV files."""
    table = networks(trace=[1 / 3, 2e30 / 3])
    artifacts.write_table(tmp_path / "t.csv", table)
    rows = compare(pd.read_csv(tmp_path / "t.csv"), table)
    assert rows["agrees"].all()


def test_every_column_of_the_published_tables_has_a_kind() -> None:
    """Its lack would otherwise be found at the end of a run that may have taken hours."""
    given = {
        "labels": {"net": "Net"},
        "history": {"net": fabricate.history()},
        "image_counts": {"net": fabricate.image_counts()},
        "slices": {"net": fabricate.slices()},
        "trace_estimators_record": {"net": {"seconds": {}}},
        "saddle_traces_record": {"seconds": {}},
    }
    for name in tables.TABLES.keys() - quantities.TIMES:
        for read in tables.READS[name]:
            if read not in given:
                one = fabricate.made(read)
                given[read] = one if read in registry.OF_PROFILES else {"net": one}
        made = tables.TABLES[name](*(given[read] for read in tables.READS[name]))
        assert len(made), name
        for column in made.select_dtypes(["number", "bool"]):
            assert quantities.quantity(name, str(column)).kind


def test_column_that_nothing_is_said_of() -> None:
    sentence = "^networks.colour has no kind: say in reproduction/quantities.py how closely"
    with pytest.raises(ConfigurationError, match=sentence):
        compare(networks(colour=[1.0, 2.0]), networks())


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
    others = comparison.other_networks(
        {"resnet": weights(), "mlp": weights()}, {"resnet": here, "mlp": weights()}
    )
    assert others == ({"resnet"} if is_other else set())


def test_members_of_the_population_are_told_by_their_norm() -> None:
    """Rounding of the norm itself makes no other member."""
    one = population(1.0, 2.0)
    assert not comparison.other_networks({}, {}, one, population(1.0 + 1e-14, 2.0))
    for other in (population(1.0, 2.0 + 1e-9), population(1.0)):
        assert comparison.other_networks({}, {}, one, other) == {POPULATION}


# The archive's own run, its replicates, and one more: `t` with seeds of its own.


def run(seed: int) -> Tables:
    """Tables of two networks, four saddles and a population, as another training gives them."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(3, 2))
    return {
        "networks": pd.DataFrame(
            {
                "network": ["resnet", "mlp"],
                "n_parameters": [1000, 500],
                "n_images": [500, 500],
                "loss": 0.01 * np.exp(0.2 * z[0]),
                "largest": [0.5, 2.0] * np.exp(0.1 * z[1]),
                "largest_residual": [1e-14, 1e-14],
                "trace": [3.0, 9.0] * np.exp(0.1 * z[2]),
                "test_accuracy": random.binomial(500, 0.97, size=2) / 500,
            }
        ),
        "step_sizes": pd.DataFrame(
            {"network": ["resnet"] * 2, "step": [0.1, 0.01], "gap": random.normal(size=2)}
        ),
        "saddles": pd.DataFrame({"n_positive": [10, 20], "r": [-1.0, 1.0]}),
        "population": pd.DataFrame({"n_members": [48], "n_reached": random.binomial(48, 0.8, 1)}),
    }


ARCHIVE, RUNS = run(1), [run(seed) for seed in range(2, 7)]
TRAINED = {"resnet", "mlp", POPULATION}
SAME = pd.DataFrame({"claim": ["C1"], "verdict": ["reproduced"], "result": ["same"]})


def changed(tables: Tables, name: str, factor: float, row: int = 0) -> Tables:
    table, column = name.split(".")
    new = tables[table].copy()
    new[column] = new[column].astype(float)
    new.loc[row, column] *= factor
    return tables | {table: new}


def outcome(here: Tables, others: Collection[str] = (), runs: Sequence[Tables] = RUNS) -> str:
    """The last line that is said."""
    numbers, acceptance = comparison.compare_tables(ARCHIVE, here, SCALES, others, runs)
    verdicts = comparison.compare_verdicts(SAME[["claim", "verdict"]], SAME[["claim", "verdict"]])
    text = comparison.summary("retrained", numbers, verdicts, acceptance, others)
    assert comparison.holds(numbers, verdicts, acceptance) == ("did NOT" not in text)
    return text.splitlines()[-1]


def test_another_training_reproduces() -> None:
    assert "reproduced the published" in outcome(run(7), TRAINED)
    # The same numbers are wrong where the weights are the archive's.
    assert "did NOT reproduce" in outcome(run(7))


def test_a_profile_without_claims_is_compared() -> None:
    numbers, acceptance = comparison.compare_tables(ARCHIVE, ARCHIVE, SCALES, (), RUNS)
    none = comparison.compare_verdicts(comparison.NO_CLAIMS, comparison.NO_CLAIMS)
    text = comparison.summary("retrained", numbers, none, acceptance, ())
    assert "verdicts" not in text
    assert "This machine reproduced the published numbers" in text


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("networks.trace", 1 + 1e-8),
        ("networks.loss", 1 + 1e-8),
        ("networks.test_accuracy", 0.999),
        ("networks.n_images", 2),
        ("saddles.r", 1 + 1e-8),
        ("population.n_reached", 0.99),
        ("step_sizes.gap", -1),
    ],
)
def test_a_wrong_number_of_the_archives_weights_fails(name: str, factor: float) -> None:
    assert "reproduced" in outcome(ARCHIVE)
    assert "1 of" in (line := outcome(changed(ARCHIVE, name, factor)))
    assert "did NOT" in line


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("networks.trace", -1),
        ("networks.largest", 1e3),
        ("networks.n_images", 2),
        ("saddles.r", 1 + 1e-8),
        ("population.n_reached", 0.0),
    ],
)
def test_a_wrong_number_of_another_training_fails(name: str, factor: float) -> None:
    assert "did NOT" in outcome(changed(run(7), name, factor), TRAINED)


def test_each_archived_run_is_reproduced_by_the_others() -> None:
    """False alarms, one seed left out: five replicates of the six, the sixth takes their place."""
    everything = [ARCHIVE, *RUNS, run(8)]
    for k, here in enumerate(everything):
        first, *rest = (one for j, one in enumerate(everything) if j != k)
        numbers, acceptance = comparison.compare_tables(first, here, SCALES, TRAINED, rest)
        assert comparison.holds(numbers, SAME, acceptance)


def test_without_replicates_other_networks_are_not_judged() -> None:
    numbers, acceptance = comparison.compare_tables(ARCHIVE, run(7), SCALES, TRAINED, RUNS[:3])
    text = comparison.summary("retrained", numbers, SAME, acceptance, TRAINED)
    n_numbers = (numbers["subject"].isin(TRAINED)).sum()
    assert f"  {n_numbers} were measured on other networks than the archive's (mlp, resnet" in text
    assert "and are NOT judged: the archive has fewer than 5 seeds" in text
    assert "reproduced the published" in outcome(run(7), TRAINED, RUNS[:3])
    # All others are, and nothing else is needed where no network is another one.
    assert "did NOT" in outcome(changed(run(7), "saddles.r", 1 + 1e-8), TRAINED, RUNS[:3])
    assert "reproduced the published" in outcome(ARCHIVE, runs=[])


def test_comparing_twice_gives_the_same() -> None:
    one, other = (compare_tables(ARCHIVE, run(7), TRAINED, RUNS) for _ in range(2))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("seen", [True, False])
def test_flags_and_rare_numbers_must_be_like_one_of_the_runs(seen: bool) -> None:
    old = {"networks": networks()}
    runs = [{"networks": networks(converged=[not seen, False])} for _ in range(5)]
    new = {"networks": networks(converged=[False, False])}
    rows = compare_tables(old, new, ["resnet"], runs)
    missed = disagreeing(rows)
    assert (("networks.converged", "resnet") in missed) == (not seen)


@pytest.mark.parametrize(
    ("there", "decisive"),
    [
        ({"converged": [False, False]}, []),
        ({"trace": [math.nan, -2.0]}, []),
        ({"trace": [1e9, -2.0]}, [("networks.trace", "resnet")]),
    ],
    ids=["another flag", "no number", "a number far out"],
)
def test_what_five_runs_do_not_rule_out_does_not_fail_alone(
    there: dict[str, list], decisive: list[tuple[str, str]]
) -> None:
    old, new = {"networks": networks()}, {"networks": networks(**there)}
    runs = [{"networks": networks(trace=[10.0 + k, -2.0])} for k in range(5)]
    rows = compare_tables(old, new, ["resnet"], runs)
    assert len(disagreeing(rows)) == 1
    assert disagreeing(rows.assign(agrees=~rows["decisive"])) == decisive


def test_a_number_that_is_missing_fails_alone() -> None:
    runs = [{"networks": networks(trace=[10.0 + k, -2.0])} for k in range(5)]
    without = networks().iloc[1:]
    rows = compare_tables({"networks": networks()}, {"networks": without}, ["resnet"], runs)
    assert rows.set_index(["quantity", "row"]).loc[("networks.trace", "resnet"), "decisive"]


# The demo's own seeds.

DEMO = ROOT / "results/archive/demo"


def runs_of_the_demo() -> list[Tables]:
    """The archive's own run and its replicates, of which each is as good as the others."""
    folders = [DEMO, *sorted((DEMO / "replicates").glob("*/"))]
    return [
        {path.stem: pd.read_csv(path) for path in (folder / "tables").glob("*.csv")}
        for folder in folders
    ]


def test_each_run_of_the_demo_is_reproduced_by_the_others() -> None:
    """As a run on another processor is, which trains other networks.

    Few runs tell little of how misses of one network go together: that one of them has too many is no
    surprise. None has a number that fails alone.
    """
    configuration = yaml.safe_load((DEMO / "configuration.yaml").read_text())
    population = artifacts.read_dataset(DEMO / "population.nc")
    held = []
    for k in range(len(runs_of_the_demo())):
        everything = runs_of_the_demo()
        here = everything.pop(k)
        first, *rest = everything
        of = scales.of_subjects(configuration, first, here, {}, {}, population)
        others = set(of) - {""}
        numbers, acceptance = comparison.compare_tables(first, here, of, others, rest)
        # Saddles that are not trained are others with another seed.
        numbers = numbers[numbers["subject"].isin(others)]
        assert len(numbers) > 4000
        assert not numbers.loc[numbers["decisive"], "quantity"].to_list()
        held.append(comparison.holds(numbers, SAME, acceptance))
    assert sum(held) >= len(held) - 1


# Power.


def test_power_of_both_levels() -> None:
    table = comparison.power(compare_tables(ARCHIVE, ARCHIVE, runs=RUNS))
    table = table.set_index(["level", "kind", "change"])
    assert set(table.index.get_level_values("change")) == {"5 %", "20 %", "50 %", "sign"}
    assert table.loc[("recomputed", "curvature", "5 %"), "noticed"] == 1
    assert table.loc[("retrained", "curvature", "sign"), "alone"] == 1
    assert table.loc[("retrained", "curvature", "5 %"), "noticed"] == 0
    # Residuals are no result, and settings are none that could be wrong.
    assert table.loc[("recomputed", "residual", "50 %"), "noticed"] == 0
    assert "setting" not in table.index.get_level_values("kind")
    alone = comparison.power(compare_tables(ARCHIVE, ARCHIVE))
    assert set(alone["level"]) == {"recomputed"}


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
        {"claim": "C1", "verdict_published": published, "verdict_computed": here, "result": result}
    ]


def test_missing_verdict_is_a_failure() -> None:
    """Even beside one that decided nothing."""
    merged = comparison.compare_verdicts(
        verdicts(C1="reproduced", C2="inconclusive"), verdicts(C2="inconclusive", C3="inconclusive")
    ).set_index("claim")
    assert dict(merged["result"]) == {"C1": "failure", "C2": "same", "C3": "failure"}
    assert merged.loc["C1", "verdict_computed"] == "missing"


# Plain words.


def said(here: Tables, verdict: str, others: Collection[str] = ()) -> list[str]:
    numbers, acceptance = comparison.compare_tables(ARCHIVE, here, SCALES, others, RUNS)
    merged = comparison.compare_verdicts(
        verdicts(C1="reproduced", C2="inconclusive"), verdicts(C1=verdict, C2="inconclusive")
    )
    level = "retrained" if others else "recomputed"
    return comparison.summary(level, numbers, merged, acceptance, others).splitlines()


def test_misses_come_first() -> None:
    lines = said(changed(ARCHIVE, "networks.trace", 2.0), "reproduced")
    assert lines[0] == "1 numbers lie outside their interval:"
    assert lines[1].startswith("  networks.trace resnet: published 3.")
    assert lines[1].endswith("(fails alone)")
    assert "rounding allows" in lines[1]
    assert lines[-1].startswith("This machine did NOT recompute the published results: 1 of ")


def test_verdicts_are_said_where_they_differ() -> None:
    lines = said(ARCHIVE, "not reproduced")
    assert "Claim C1: published reproduced, here not reproduced (failure)" in lines
    assert "did NOT" in lines[-1]
    lines = said(ARCHIVE, "inconclusive")
    assert "Claim C1: published reproduced, here inconclusive (warning)" in lines
    assert "did NOT" not in lines[-1]


def test_how_numbers_were_compared_is_said() -> None:
    text = "\n".join(said(run(7), "reproduced", TRAINED))
    assert "measured on other networks than the archive's (mlp, resnet, the population)" in text
    assert "99 % prediction interval" in text
    assert "A wrong number is noticed, recomputed: " in text
    assert "A wrong number is noticed, retrained: " in text


def test_summary_of_nothing() -> None:
    numbers, acceptance = comparison.compare_tables({}, {}, SCALES)
    nothing = comparison.compare_verdicts(verdicts(), verdicts())
    text = comparison.summary("recomputed", numbers, nothing, acceptance)
    assert text.splitlines()[-1].startswith("This machine recomputed the published numbers: 0 of 0")
    assert isinstance(acceptance, Acceptance)


def test_what_is_found_in_words_names_no_row() -> None:
    """Another training finds other layers; its rows are still those of the archive."""
    root = Path(__file__).parents[2]
    for path in root.glob("results/archive/*/tables/*.csv"):
        table = pd.read_csv(path)
        other = table.copy()
        for column in set(table.select_dtypes(exclude=["number", "bool"])) - comparison.NAMES:
            other[column] = "another"
        numbers, _ = comparison.compare_tables({path.stem: table}, {path.stem: other}, SCALES)
        assert numbers["agrees"].all(), path
