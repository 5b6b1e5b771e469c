"""The arithmetic of the benchmarks, their environment, and their figure; no tool is run."""

import itertools
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hessian_directions.errors import ArtifactError
from hessian_directions.reporting.figures import drawing

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import alternation  # noqa: E402
import benchmark_ratios  # noqa: E402
import cluster  # noqa: E402
import goals  # noqa: E402
import lines  # noqa: E402
import machine  # noqa: E402
import population  # noqa: E402
import scaling  # noqa: E402

NETWORKS = ("ResNet-20", "ResNet-56", "DenseNet-121")
LAYOUTS = ("channels-last", "default")
TIMED = (goals.PRODUCT, goals.PROBES, goals.DERIVATIVE, goals.DERIVATIVES, goals.SURFACE)


def timed_rows(work, network, peers, rng):
    """Rows of one alternation with forward passes of a second."""
    forwards = {goals.SURFACE: 1.05}.get(work, 8.0)
    count = 16
    ours = count * forwards * rng.uniform(0.9, 1.1, 5)
    rows = []
    for factor, (peer, layout) in zip((1.6, 2.2, 3.1, 2.6), itertools.product(peers, LAYOUTS)):
        theirs = ours * factor * rng.uniform(0.9, 1.1, 5)
        row = goals.timed_row(
            work,
            ours,
            theirs,
            np.ones(5),
            count,
            network=network,
            n_parameters=272_474,
            n_images=64,
            peer=peer,
            peer_layout=layout,
        )
        rows.append(row)
    return goals.decided(rows)


def fabricated(networks=NETWORKS):
    rng = np.random.default_rng(0)
    rows = []
    for network, work in itertools.product(networks, TIMED):
        peers = ("loss-landscapes",) if work == goals.SURFACE else ("PyHessian", "curvlinops")
        rows += timed_rows(work, network, peers, rng)
    trained = {"network": "ResNet-20, trained", "n_parameters": 272_474, "n_images": 40}
    for peer, theirs, ratio in (("ARPACK recipe", 52, 0.5), ("PyHessian", 20, np.nan)):
        rows.append(
            goals.finished_row(
                goals.EIGENPAIRS,
                measure="products",
                ours=26,
                theirs=theirs,
                ratio=ratio,
                peer=peer,
                decides=peer == "ARPACK recipe",
                **trained,
            )
        )
    rows.append(
        goals.finished_row(
            goals.TRACE,
            measure="root mean square error",
            ours=1.0,
            theirs=8.0,
            ratio=0.125,
            ratio_low=0.08,
            ratio_high=0.3,
            peer="PyHessian",
            peer_layout="default",
            decides=True,
            **trained,
        )
    )
    return pd.DataFrame(rows)


# Timing by turns


class Clock:
    """Time that passes only while a task runs."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def task(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds

        return run


def test_tasks_alternate_and_each_round_starts_with_another():
    clock = Clock()
    tasks = {name: clock.task(name, seconds) for name, seconds in zip("abc", (1.0, 2.0, 4.0))}
    seconds = alternation.alternate(tasks, 4, clock=clock)
    assert seconds == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [4.0] * 4}
    assert "".join(clock.log) == "abcbcacababc"


def test_short_tasks_are_repeated_and_their_mean_is_taken():
    clock = Clock()
    tasks = {"long": clock.task("l", 5.0), "short": clock.task("s", 0.25)}
    seconds = alternation.alternate(tasks, 2, {"short": 4}, clock=clock)
    assert seconds == {"long": [5.0, 5.0], "short": [0.25, 0.25]}
    assert clock.log.count("s") == 8


def test_what_the_device_still_does_is_part_of_the_time():
    clock = Clock()
    pending = []

    def settle():
        clock.now += sum(pending)
        pending.clear()

    tasks = {"queued": lambda: pending.append(3.0), "direct": clock.task("d", 1.0)}
    seconds = alternation.alternate(tasks, 2, settle=settle, clock=clock)
    assert seconds == {"queued": [3.0, 3.0], "direct": [1.0, 1.0]}


# Rows


def test_a_row_holds_medians_and_ratios_of_the_rounds():
    """A machine that is twice as slow in one round changes no ratio."""
    slow = np.array([1, 1, 2, 1, 1])
    row = goals.timed_row(goals.PROBES, 96 * slow, 320 * slow, 1.0 * slow, 16, peer="a peer")
    assert row["measure"] == "seconds"
    assert row["ours"] == row["ours_seconds"] == 96
    assert row["theirs"] == row["peer_seconds"] == 320
    assert row["ratio"] == row["ratio_low"] == row["ratio_high"] == pytest.approx(0.3)
    assert row["forwards"] == 6
    assert row["peer_forwards"] == 20
    assert row["reached"]
    assert list(row) == list(goals.COLUMNS)


def test_the_range_of_the_rounds_is_kept():
    row = goals.timed_row(goals.PRODUCT, [1, 2, 3], [4, 4, 4], [1, 1, 1], 1)
    assert (row["ratio_low"], row["ratio"], row["ratio_high"]) == (0.25, 0.5, 0.75)


def test_rounds_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="3 and 2 rounds"):
        goals.round_ratios([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="0 and 0 rounds"):
        goals.round_ratios([], [])


def test_an_unknown_column_is_refused():
    with pytest.raises(ValueError, match="no column typo"):
        goals.finished_row(goals.TRACE, ratio=0.1, typo=1)


@pytest.mark.parametrize(
    ("work", "ratio", "forwards", "reached"),
    [
        (goals.PRODUCT, 0.5, 9.5, True),
        (goals.PRODUCT, 0.51, 9.0, False),
        (goals.PRODUCT, 0.4, 9.6, False),
        (goals.PRODUCT, np.nan, 9.0, False),
        (goals.DERIVATIVE, np.nan, 7.0, True),
        (goals.DERIVATIVE, np.nan, np.nan, False),
        (goals.DERIVATIVES, 3.0, 5.0, True),
        (goals.EIGENPAIRS, 0.5, np.nan, True),
        (goals.EIGENPAIRS, np.nan, np.nan, False),
        (goals.TRACE, 0.6, np.nan, False),
    ],
)
def test_a_goal_is_reached_when_every_bound_holds(work, ratio, forwards, reached):
    assert goals.finished_row(work, ratio=ratio, forwards=forwards)["reached"] is reached


def test_no_goal_is_below_its_floor():
    for work, goal in goals.GOALS.items():
        assert not goal.forwards < goal.floor, work
        assert np.isfinite(goal.ratio) or np.isfinite(goal.forwards), work


def test_the_fastest_peer_decides():
    rows = [{"peer": peer, "peer_seconds": s} for peer, s in zip("abc", (3.0, 1.0, 2.0))]
    assert [row["decides"] for row in goals.decided(rows)] == [False, True, False]


def test_the_interval_of_two_errors_covers_their_ratio():
    """Errors N(0, 1) and N(0, 2²): the ratio 1/2 lies in about 95 % of the intervals."""
    rng = np.random.default_rng(1)
    n_trials, covered = 200, 0
    for trial in range(n_trials):
        ours, theirs = rng.normal(0, 1, 60), rng.normal(0, 2, 60)
        low, high = goals.bootstrap_ratio(ours, theirs, 400, trial)
        assert low < high
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / n_trials <= 0.99


def test_only_what_is_missing_is_measured():
    table = fabricated(NETWORKS[:1])
    wanted = dict.fromkeys(NETWORKS[:2], (goals.PRODUCT, goals.SURFACE))
    assert goals.missing(table, wanted) == [
        ("ResNet-56", goals.PRODUCT),
        ("ResNet-56", goals.SURFACE),
    ]
    assert len(goals.missing(table.iloc[:0], wanted)) == 4


def test_the_summary_has_a_line_for_each_decision_and_says_what_is_missed():
    table = fabricated()
    lines = goals.summary(table).splitlines()
    assert len(lines) == len(NETWORKS) * len(TIMED) + 2
    assert sum("MISSED" in line for line in lines) == (~table[table["decides"]]["reached"]).sum()
    trace = next(line for line in lines if goals.TRACE in line)
    assert "0.12 of PyHessian (default), goal 0.50" in trace
    assert "MISSED" not in trace


def test_cells_of_the_readme_are_those_that_decide():
    cells = goals.readme_cells(fabricated(NETWORKS[:2]))
    assert cells[goals.TRACE] == ("0.12", "")
    ratios, forwards = cells[goals.PRODUCT]
    assert re.fullmatch(r"0\.\d\d, 0\.\d\d", ratios)
    assert re.fullmatch(r"\d\.\d, \d\.\d", forwards)


@pytest.mark.parametrize(
    ("device", "has_avx512", "used", "name"),
    [
        ("cpu", True, "AVX512", "cpu"),
        ("cpu", True, "AVX2", "cpu_avx2"),
        ("cpu", False, "AVX2", "cpu"),  # its own instruction set
        ("cuda", True, "AVX2", "cuda"),
    ],
)
def test_tables_without_avx512_have_a_name_of_their_own(
    monkeypatch, device, has_avx512, used, name
):
    monkeypatch.setattr("torch.cpu._is_avx512_supported", lambda: has_avx512)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: used)
    assert machine.table_name(device) == name


def test_a_table_survives_its_file(tmp_path):
    table = fabricated()
    table.to_csv(tmp_path / "cpu.csv", index=False)
    again = pd.read_csv(tmp_path / "cpu.csv")
    assert goals.summary(again) == goals.summary(table)
    assert drawn(again, tmp_path / "again.svg") == drawn(table, tmp_path / "table.svg")


# The environment


def test_peers_are_pinned_and_what_is_ours_keeps_its_version():
    lines = (ROOT / "benchmarks/requirements.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines[:2] == ["-c ../constraints.txt", "-e ."]
    peers = [Requirement(line) for line in lines[2:]]
    pinned = {
        canonicalize_name(re.split("==", line)[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for peer in peers:
        assert [part.operator for part in peer.specifier] == ["=="], peer
        assert canonicalize_name(peer.name) not in pinned, f"{peer} is pinned twice"


# The figure


def drawn(table, path):
    drawing.save(benchmark_ratios.draw(table), path)
    return path.read_bytes()


def test_the_figure_is_the_same_to_the_byte(tmp_path):
    first = drawn(fabricated(), tmp_path / "first.svg")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5}):
        assert drawn(fabricated(), tmp_path / "second.svg") == first


@pytest.mark.parametrize("networks", [NETWORKS[:1], NETWORKS])
def test_names_do_not_overlap_or_leave_the_page(networks):
    with matplotlib.style.context(drawing.STYLE, after_reset=True):
        figure = benchmark_ratios.draw(fabricated(networks))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(networks) * len(TIMED) + 2
    for upper, lower in itertools.pairwise(labels):
        assert upper.y0 > lower.y1 - 1
    assert min(label.x0 for label in labels) >= 0


def test_every_ratio_has_a_dot_filled_in_the_faster_layout():
    table = fabricated(NETWORKS[:1])
    ax = benchmark_ratios.draw(table).axes[0]
    dots = [line for line in ax.lines if line.get_marker() in {"o", "s", "D", "^"}]
    drawn_ratios = sorted(float(dot.get_xdata()[0]) for dot in dots)
    assert drawn_ratios == sorted(table["ratio"].dropna())
    assert sum(dot.get_markerfacecolor() == "white" for dot in dots) == 2 * 4 + 1


@pytest.mark.parametrize("works", [(goals.TRACE,), (goals.DERIVATIVE,)])
def test_numbers_that_do_not_exist_are_left_out(works, tmp_path):
    table = fabricated(NETWORKS[:1])
    assert drawn(table[table["work"].isin(works)], tmp_path / "figure.pdf")


def test_nothing_to_draw_is_said():
    with pytest.raises(ArtifactError, match="nothing to draw"):
        benchmark_ratios.draw(fabricated().iloc[:0])


def test_ours_takes_the_fewest_lines() -> None:
    rows = lines.table(run=False)
    for work in lines.WORK:
        of_work = {row.tool: row.lines for row in rows if row.work == work}
        ours = of_work.pop(lines.OURS)
        assert all(ours < theirs for theirs in of_work.values()), work
    assert set(lines.REMARKS) <= set(lines.PROGRAMS)


def test_our_programs_run() -> None:
    given = lines.subject()
    for (tool, work), program in lines.PROGRAMS.items():
        if tool == lines.OURS:
            assert lines.timed(program, given) > 0, work


def test_lines_of_the_readme_are_counted() -> None:
    text = (ROOT / "benchmarks/README.md").read_text()
    stated = re.sub(r" \(\d[\d.]*\)", "", text)
    for line in re.sub(r" \(\d[\d.]*\)", "", lines.markdown(lines.table(run=False))).splitlines():
        assert line in stated


def test_efficiency_of_processes():
    """Twice as fast with as much in all, or as fast with twice as much, is an efficiency of one."""
    rows = pd.DataFrame(
        [
            (kind, "gradient", processes, 64, seconds + noise, seconds)
            for kind, processes, seconds in [
                ("strong", 1, 4.0),
                ("strong", 2, 2.0),
                ("weak", 1, 4.0),
                ("weak", 2, 5.0),
            ]
            for noise in (-0.5, 0.0, 1.0)
        ],
        columns=[*scaling.CASE, "processes", "n_images", "seconds", "cpu_seconds"],
    )
    table = scaling.summary(rows).set_index(["scaling", "processes"])
    assert list(table["efficiency_seconds"]) == [1.0, 1.0, 1.0, 0.8]
    assert list(table["efficiency_cpu_seconds"]) == [1.0, 1.0, 1.0, 0.8]
    assert list(table["seconds_fastest"]) == [3.5, 1.5, 3.5, 4.5]
    assert list(table["seconds_slowest"]) == [5.0, 3.0, 5.0, 6.0]
    assert set(table["n_rounds"]) == {3}


# Runs


def test_slurm_levels_are_the_longest_chain_of_submissions():
    """Two side by side, one that waits for the first of them alone, and one that waits for all."""
    times = pd.to_datetime("2026-01-01") + pd.to_timedelta(np.arange(10), unit="s")
    submitted, ended = [0, 0, 2, 8], [2, 6, 7, 9]
    table = pd.DataFrame({"submitted": times[submitted], "ended": times[ended]})
    assert cluster.n_levels(table) == 3
    assert cluster.n_levels(table.iloc[:2]) == 1
    assert cluster.n_levels(table.iloc[:0]) == 0


def test_population_is_enlarged_by_seeds():
    given = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    enlarged = population.enlarged(given, 1000, 7)["analyses"]["population"]
    of_seeds = given["analyses"]["population"]["factors"]
    members = np.prod([len(levels) for levels in enlarged["factors"].values()])
    per_seed = members // len(enlarged["factors"]["seed"])
    assert 1000 <= members < 1000 + per_seed
    assert enlarged["factors"] | {"seed": of_seeds["seed"]} == of_seeds
    assert population.thousands(40, 4)["analyses"]["population"]["factors"]["seed"] == [*range(10)]
