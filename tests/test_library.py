"""The public names: loaded when they are used, with defaults for a first look."""

import ast
import copy
import math
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hessian_directions as hd
from hessian_directions.errors import ConfigurationError, DependencyError
from hessian_directions.reporting.report import document, results

PACKAGE = Path(hd.__file__).parent


def python(code: str) -> str:
    folders = [str(PACKAGE.parent)]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {folders!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


# --- Names ----------------------------------------------------------------------------------------


def test_the_import_loads_nothing() -> None:
    code = """
before = set(sys.modules)
import hessian_directions as hd
hd.__version__, dir(hd)
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded - sys.stdlib_module_names))
"""
    assert python(code) == "['hessian_directions']"


def test_what_is_not_used_is_not_loaded() -> None:
    code = """
import hessian_directions as hd
hd.Objective, hd.extreme_eigenpairs, hd.spectral_density, hd.trace, hd.slices, hd.visibility
hd.flatness, hd.directions, hd.localisation, hd.analyze, hd.Report
optional = {"matplotlib", "seaborn", "PIL", "snakemake", "h5netcdf", "h5py", "torchvision", "timm",
            "sklearn", "pooch", "yaml", "pydantic", "jsonschema", "typst", "pygments"}
print(sorted(optional & set(sys.modules)))
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("hessian_directions.")}
print(sorted(rooms & {"analyses", "data", "learning", "models", "reproduction"} - {"reproduction"}))
"""
    assert python(code).split("\n") == ["[]", "[]"]


def test_every_public_name_is_there_and_no_other() -> None:
    for name in hd.__all__:
        assert getattr(hd, name) is getattr(hd, name)
    assert dir(hd) == sorted(hd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'objektive'"):
        _ = hd.objektive
    assert set(hd._HOMES) == set(hd.__all__) - {"__version__"}


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            module = f"{node.module}.{alias.name}"
            whole = find_spec(node.module).submodule_search_locations and find_spec(module)
            home = f"{module}:" if whole else f"{node.module}:{alias.name}"
            seen[alias.asname] = home.removeprefix("hessian_directions.")
    assert seen == hd._HOMES


# --- One line each --------------------------------------------------------------------------------


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    inputs = torch.randn(60, 4, dtype=torch.float64)
    return model, inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()


def dense(objective: hd.Objective) -> Tensor:
    eye = torch.eye(objective.n_parameters, dtype=objective.dtype)
    return objective.hessian() @ eye


@pytest.fixture(scope="module")
def objective() -> hd.Objective:
    model, inputs, targets = network()
    return hd.Objective(model, nn.functional.cross_entropy, inputs, targets)


@pytest.fixture(scope="module")
def values(objective: hd.Objective) -> Tensor:
    return torch.linalg.eigvalsh(dense(objective))


def test_eigenpairs_of_an_objective(objective: hd.Objective, values: Tensor) -> None:
    pairs = hd.extreme_eigenpairs(objective)
    assert pairs.values.tolist() == pytest.approx(values[[0, -1]].tolist(), rel=1e-6)
    assert pairs.seed == 0
    top = hd.extreme_eigenpairs(objective, 0, 5, seed=3)
    assert top.values.tolist() == pytest.approx(values[-5:].tolist(), rel=1e-6)
    assert top.seed == 3
    again = hd.extreme_eigenpairs(objective, 0, 5, seed=3)
    assert torch.equal(again.vectors, top.vectors)
    assert hd.extreme_eigenpairs(objective, seed=torch.Generator()).seed is None


@pytest.mark.parametrize(
    "estimator", ["hutchinson", "directional", "finite_difference", "quadratic_fit"]
)
def test_traces_of_an_objective(objective: hd.Objective, values: Tensor, estimator: str) -> None:
    estimate = getattr(hd.trace, estimator)(objective, relative_error=0.1)
    assert estimate.standard_error <= 0.1 * estimate.mean
    assert abs(estimate.mean - float(values.sum())) < 4 * estimate.standard_error
    assert estimate.seed == 0


def test_other_traces_of_an_objective(objective: hd.Objective, values: Tensor) -> None:
    true = float(values.sum())
    assert hd.trace.exact(objective).mean == pytest.approx(true, rel=1e-10)
    for estimate in (
        hd.trace.hutch_plus_plus(objective),
        hd.trace.deflated(objective, hd.extreme_eigenpairs(objective, 2, 8)),
    ):
        assert abs(estimate.mean - true) < max(4 * estimate.standard_error, 1e-8 * true)


def test_spectrum_and_visibility_of_an_objective(objective: hd.Objective, values: Tensor) -> None:
    density = hd.spectral_density(objective)
    assert density.n_parameters == objective.n_parameters
    assert density.nodes[:, -1] == pytest.approx(np.full(len(density.nodes), float(values[-1])))
    moments = density.moments()
    assert abs(moments.trace - float(values.sum())) < 5 * moments.trace_standard_error
    matrices = hd.visibility.sample_projections(objective, 30)
    assert hd.visibility.share_of_saddles(matrices).low >= 0
    assert (hd.visibility.first_negative_dimension(objective, 5, 3) >= 1).all()
    V = hd.directions.gaussian(objective.n_parameters, 2)
    M = hd.slices.projected_hessian(objective, V)
    torch.testing.assert_close(M, V.T @ dense(objective) @ V)


# --- The report -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> hd.Report:
    model, inputs, targets = network()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs[:40], targets[:40]), batch_size=16
    )
    test = torch.utils.data.TensorDataset(inputs[40:], targets[40:])
    return hd.analyze(
        model, nn.CrossEntropyLoss(), loader, test=test, n_points=5, progress=False, seed=1
    )


def test_the_report_is_that_of_the_hessian(report: hd.Report) -> None:
    model, inputs, targets = network()
    loss = nn.functional.cross_entropy
    objective = hd.Objective(model, loss, inputs[:40], targets[:40])
    H = dense(objective)
    values, vectors = torch.linalg.eigh(H)
    scores, outputs = report.scores, model(inputs).detach()
    for prefix, part in (("", slice(40)), ("test_", slice(40, None))):
        right = outputs[part].argmax(1) == targets[part]
        assert scores[f"{prefix}accuracy"] == pytest.approx(float(right.double().mean()))
        assert scores[f"{prefix}loss"] == pytest.approx(float(loss(outputs[part], targets[part])))
    assert scores["gradient_norm"] == pytest.approx(float(objective.gradient().norm()))
    pairs = report.eigenpairs
    assert pairs.values.tolist() == pytest.approx(values[[0, -1]].tolist(), rel=1e-6)
    trace = report.trace
    assert trace.standard_error <= 0.05 * trace.mean
    assert abs(trace.mean - float(values.sum())) < 4 * trace.standard_error
    assert report.spectrum.nodes.max() == pytest.approx(float(values[-1]))
    share = report.localisation["share"]
    top = vectors[:, -1].square()
    expected = [float(part.sum()) for part in top.split([24, 6, 6, 6, 18, 3])]
    assert share[-1].values == pytest.approx(expected, abs=1e-4)
    assert report.visibility["projected_hessian"].sizes["sample"] == 50


def test_slices_of_the_report(report: hd.Report) -> None:
    assert list(report.slices) == ["random", "hessian"]
    for plane, part in report.slices.items():
        assert part.train.shape == part.test.shape == (5, 5)
        origin = {"alpha": 0.0, "beta": 0.0}
        assert float(part.train.sel(origin)) == pytest.approx(report.scores["loss"])
        assert float(part.test.sel(origin)) == pytest.approx(report.scores["test_loss"])
        assert set(part.datasets()) == {f"{plane}_train", f"{plane}_test"}
    hessian = report.slices["hessian"].train
    loss, largest = report.scores["loss"], abs(float(report.eigenpairs.values[-1]))
    assert float(hessian["alpha"][-1]) == pytest.approx(math.sqrt(loss / largest), rel=1e-4)
    lines = report.lines
    assert lines["curvature"].sel(direction="largest") == pytest.approx(largest, rel=1e-5)
    assert (lines["loss"].sel(distance=0.0) - loss == pytest.approx(0)).all()


def test_the_page_of_the_report(report: hd.Report, tmp_path: Path) -> None:
    found = results.checks(report.results())
    assert len(found) == 5
    assert all(check.agrees for check in found)
    report.save(tmp_path / "new" / "mine.html")
    html = (tmp_path / "new" / "mine.html").read_text()
    assert "All 5 agree." in html
    assert "Sequential" in html
    assert f"hessian-directions {hd.__version__}" in html
    for name in ("mine.pdf", "mine"):
        with pytest.raises(ConfigurationError, match=r"\.html"):
            report.save(tmp_path / name)


def test_figures_of_the_report(report: hd.Report) -> None:
    assert len(report.plot().axes) >= 6
    panels = report.slices["hessian"].plot().axes[:4]  # each with its middle, a row for each split
    assert [panel.get_title("left") for panel in panels[::2]] == ["(a) Hessian", "(c) Hessian"]
    rows = [panel.get_ylabel().split("\n")[0] for panel in panels[::2]]
    assert rows == ["training", "test"]
    assert "trace" in str(report)
    assert "largest" in str(report)


def test_parts_are_computed_when_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs, targets = network()
    report = hd.analyze(
        model, nn.functional.cross_entropy, inputs, targets, parts=["scores"], label="Mine"
    )
    said = capsys.readouterr().err
    assert "Mine: 63 parameters, 60 samples. About 0 Hessian-vector products" in said
    assert "scores" in report.__dict__
    assert "eigenpairs" not in report.__dict__
    assert report.results().eigenpairs is None
    assert report.trace.n_samples >= 32  # and, with it,
    assert "eigenpairs" in report.__dict__
    report.compute()
    assert set(hd.overview.PARTS) <= report.__dict__.keys()
    assert report.slices["random"].test is None
    assert "trace" in capsys.readouterr().err


def test_nothing_is_written_without_progress(capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs, targets = network()
    loss = nn.functional.cross_entropy
    hd.analyze(model, loss, inputs, targets, parts=["scores", "eigenpairs"], progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_predicted_cost_is_about_that_of_the_parts(report: hd.Report) -> None:
    said = report._prediction(hd.overview.PARTS)
    products, passes = map(int, re.search(r"(\d+) Hessian.* and (\d+) forward", said).groups())
    spent = report.objective.cost.passes
    others = report.test_objective.cost.passes
    derivatives = spent["second_directional_derivative float64"] / 2
    assert products == pytest.approx(spent["hessian_vector_product float64"] + derivatives, rel=0.5)
    assert passes == pytest.approx(spent["value float64"] + others["value float64"], rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["spectra"]}, "'spectra', not one of scores"),
        ({"parts": None}, "The parts are None, not some of scores"),
        ({"parts": 3}, "The parts are 3"),
        ({"seed": "a"}, "The seed is 'a', but must be an integer"),
        ({"seed": torch.Generator()}, "The seed must be an integer"),
        ({"test": torch.ones(60, 4)}, "pair"),
        ({"relative_error": None}, "relative_error must be a number"),
        ({"relative_error": math.nan}, "relative_error must be a number"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(options: Any, message: str) -> None:
    model, inputs, targets = network()
    with pytest.raises(ConfigurationError, match=message):
        hd.analyze(
            model, nn.functional.cross_entropy, inputs, targets, **{"parts": ["scores"]} | options
        )


def test_the_test_loss_is_that_of_the_same_weights() -> None:
    model, inputs, targets = network()
    loss = nn.functional.cross_entropy
    objective = hd.Objective(model, loss, inputs[:40], targets[:40])
    report = hd.Report(objective, objective.to(torch.float32), n_points=3)  # to its rounding
    assert report.slices["random"].test is not None
    for other in (nn.Linear(*model[0].weight.T.shape).double(), copy.deepcopy(model)):
        with torch.no_grad():
            next(other.parameters()).mul_(1.5)
        with pytest.raises(ConfigurationError, match="has other weights than the objective"):
            hd.Report(objective, hd.Objective(other, loss, inputs, targets % 3))


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_loss_without_curvature_is_drawn(tmp_path: Path) -> None:
    model = nn.Linear(4, 1, bias=False).double()
    zeros, targets = torch.zeros(9, 4).double(), torch.ones(9, 1).double()
    report = hd.analyze(model, nn.MSELoss(), zeros, targets, progress=False, n_points=3)
    assert report.eigenpairs.values.tolist() == [0, 0]
    report.plot().savefig(tmp_path / "flat.png")
    report.save(tmp_path / "flat.html")


def test_regression_and_one_parameter(tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    model = nn.Linear(1, 1, bias=False).double()
    report = hd.analyze(model, nn.MSELoss(), x, 2 * x, progress=False)
    assert math.isnan(report.scores["accuracy"])
    expected = float(2 * x.square().mean())
    assert report.eigenpairs.values.tolist() == pytest.approx([expected])
    assert report.trace.mean == pytest.approx(expected)
    assert report.slices == {}
    report.save(tmp_path / "one.html")
    with pytest.raises(ConfigurationError, match="two parameters"):
        hd.slices.surface(report.objective)


def test_a_missing_extra_is_one_sentence(
    report: hd.Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("hessian_directions.reporting.f")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        DependencyError,
        match=r"report\.plot needs matplotlib: pip install 'hessian-directions\[figures\]'",
    ):
        report.plot()
    monkeypatch.setattr(document, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"A report needs plotly"):
        report.save(tmp_path / "mine.html")
    assert not list(tmp_path.iterdir())
