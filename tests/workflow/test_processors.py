"""The smallest workflow as a machine without AVX-512 runs it: what differs, and by how much.

`make test-avx2` runs the numerical tests as such a machine would.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from project import ROOT, Project

from hessian_directions.reproduction import artifacts, comparison

# What PyTorch is told on a machine that has AVX-512, so that it computes as most laptops do.
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
RESULTS = Path("results/computed/tiny")
# Those that `make reproduce` grants; the tests' own configuration grants nearly nothing.
TOLERANCES = yaml.safe_load((ROOT / "config/demo.yaml").read_text())["comparison"]


def differences(numbers: pd.DataFrame) -> str:
    """How many numbers of each table differ, and by how much at most."""
    lines = []
    table = numbers["quantity"].str.partition(".")[0]
    for name, rows in numbers.groupby(table, sort=False):
        change = (rows["computed"] - rows["published"]).abs()
        other = change[change > 0]
        line = f"  {name:<16} {len(other):>4} of {len(rows):>4} numbers differ"
        if len(other):
            # Nothing at all is granted where the tolerance is zero: the share is infinite then.
            relative, share = other / rows["published"].abs(), other / rows["tolerance"]
            worst = rows.loc[share.idxmax()]
            line += (
                f", by {relative.median():.0e} (at most {relative.max():.0e}) of themselves; "
                f"{share.max():.1e} of what is granted at {worst['quantity']} {worst['row']}"
            )
        lines.append(line)
    return "\n".join(lines)


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


def test_differences_are_told_by_table() -> None:
    old = pd.DataFrame({"network": ["a", "b", "c"], "loss": [1.0, 2.0, np.nan]})
    new = old.assign(loss=[1.1, 2.0, np.nan])
    tolerances = {"one": {"relative": 0.0, "absolute": 0.2}, "two": {"relative": 1, "absolute": 1}}
    tables = {"one": old, "two": old}
    numbers = comparison.compare_tables(tables, tables | {"one": new}, tolerances)
    first, second = differences(numbers).splitlines()
    assert first.split()[:6] == ["one", "1", "of", "3", "numbers", "differ,"]
    assert "1e-01 (at most 1e-01) of themselves; 5.0e-01 of what is granted at one.loss a" in first
    assert second.split() == ["two", "0", "of", "3", "numbers", "differ"]


@pytest.mark.workflow
@pytest.mark.long
def test_smallest_workflow_without_avx512(
    computed: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not torch.cpu._is_avx512_supported():
        pytest.skip("no AVX-512 to leave out: the other tests are those of such a machine")
    project = Project.clone(tmp_path / "project")
    here, there = computed.path / RESULTS, project.path / RESULTS
    datasets = [path.relative_to(here) for path in sorted(here.rglob("*.nc"))]
    tables = [path.relative_to(here) for path in sorted(here.glob("tables/*.csv"))]
    targets = [str(RESULTS / path) for path in [*datasets, *tables, "claims.csv"]]
    project.snakemake(*targets, config="source=compute", **AVX2)

    numbers = comparison.compare_tables(
        *({path.stem: pd.read_csv(run / path) for path in tables} for run in (here, there)),
        TOLERANCES,
    )
    verdicts = comparison.compare_verdicts(
        *(pd.read_csv(run / "claims.csv") for run in (here, there))
    )
    others = comparison.OtherNetworks.between(
        *(
            {
                path.parent.name: artifacts.read_tensors(path)
                for path in run.glob("networks/*/checkpoint.safetensors")
            }
            for run in (here, there)
        ),
        *(artifacts.read_dataset(run / "population.nc") for run in (here, there)),
    )
    with capsys.disabled():
        print(f"\nThe smallest workflow with AVX-512 and without, networks that differ: {others}")
        print(differences(numbers))
        print(f"  verdicts: {verdicts['result'].value_counts().to_dict()}")
    for path in datasets:
        found = finite_in_one_alone(*(artifacts.read_dataset(run / path) for run in (here, there)))
        assert not found, f"{path}: {found}"
    outside = numbers[~numbers["agrees"].astype(bool)]
    assert outside.empty, outside.to_string()
    assert "failure" not in set(verdicts["result"])
