"""The smallest workflow as a machine without AVX-512 runs it: what differs, and by how much.

`make test-avx2` runs the numerical tests as such a machine would.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from project import Project

from hessian_directions.reproduction import artifacts, comparison

# What PyTorch is told on a machine that has AVX-512, so that it computes as most laptops do.
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
RESULTS = Path("results/computed/tiny")


def finite_in_one_alone(one: xr.Dataset, other: xr.Dataset) -> list[str]:
    """The variables that have a number in one dataset where the other has none."""
    names = [name for name, variable in one.variables.items() if variable.dtype.kind == "f"]
    return [
        str(name)
        for name in names
        if one[name].shape != other[name].shape
        or not np.array_equal(np.isfinite(one[name]), np.isfinite(other[name]))
    ]


def test_a_number_that_only_one_machine_has_is_found() -> None:
    one = xr.Dataset({"a": ("x", [1.0, np.nan]), "b": ("x", [1.0, 2.0]), "n": ("x", [1, 2])})
    assert finite_in_one_alone(one, one.assign(b=("x", [3.0, 4.0]))) == []
    assert finite_in_one_alone(one, one.assign(b=("x", [1.0, np.inf]))) == ["b"]
    assert finite_in_one_alone(one.assign(b=("x", [1.0, np.nan])), one) == ["b"]


@pytest.mark.workflow
@pytest.mark.long
def test_smallest_workflow_without_avx512(computed: Project, tmp_path: Path) -> None:
    if not torch.cpu._is_avx512_supported():
        pytest.skip("no AVX-512 to leave out: the other tests are those of such a machine")
    project = Project.clone(tmp_path / "project")
    here, there = computed.path / RESULTS, project.path / RESULTS
    datasets = [path.relative_to(here) for path in sorted(here.rglob("*.nc"))]
    tables = [path.relative_to(here) for path in sorted(here.glob("tables/*.csv"))]
    targets = [str(RESULTS / path) for path in [*datasets, *tables, "claims.csv"]]
    project.snakemake(*targets, config="source=compute", **AVX2)

    verdicts = comparison.compare_verdicts(
        *(pd.read_csv(run / "claims.csv") for run in (here, there))
    )
    for path in datasets:
        found = finite_in_one_alone(*(artifacts.read_dataset(run / path) for run in (here, there)))
        assert not found, f"{path}: {found}"
    assert "failure" not in set(verdicts["result"])


@pytest.mark.workflow
@pytest.mark.long
def test_archive_is_recomputed_without_avx512(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The archive of a machine that has it, whose weights are analysed as on one that has not."""
    if not torch.cpu._is_avx512_supported():
        pytest.skip("no AVX-512 to leave out: the other tests are those of such a machine")
    project.snakemake("recompute", config="source=recompute", **AVX2)
    text = (project.path / "results/recomputed/tiny/comparison.txt").read_text()
    with capsys.disabled():
        print(f"\n{text}")
    assert "did NOT" not in text
