"""How many lines do five questions take, from a model, a loss and a loader, in each tool?

`python benchmarks/lines.py` counts the lines of the programs below, imports included, runs those whose
tool is installed, and prints a table; `--output lines.csv` writes it. Seconds are those of one run on
a small network with 500 digits, imports and what a tool prints left out; they say what a newcomer
waits for, not what `run.py` measures. A program that raises has no seconds but its error.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import tempfile
import textwrap
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

WORK = ("top five eigenvalues", "both ends", "trace with its error", "Hessian slice", "its figure")

OURS = "hessian-directions"

# Tool → the module that it is imported by.
TOOLS = {
    OURS: "hessian_directions",
    "PyHessian": "pyhessian",
    "hessian-eigenthings": "hessian_eigenthings",
    "curvlinops": "curvlinops",
    "Landscaper": "landscaper",
    "nngeom": "nngeom",
}

# (tool, work) → a program as the tool's documentation writes it. Given are model (in evaluation mode),
# loss (of outputs and targets), loader, and batch (all samples at once), for tools that take no loader.
# What a tool cannot do is left out. Remarks say what the answer lacks.
PROGRAMS = {
    (OURS, "top five eigenvalues"): """
        import hessian_directions as hd
        values = hd.extreme_eigenpairs(hd.Objective(model, loss, loader), 0, 5).values
    """,
    (OURS, "both ends"): """
        import hessian_directions as hd
        pairs = hd.extreme_eigenpairs(hd.Objective(model, loss, loader))
    """,
    (OURS, "trace with its error"): """
        import hessian_directions as hd
        estimate = hd.trace.directional(hd.Objective(model, loss, loader))
    """,
    (OURS, "Hessian slice"): """
        import hessian_directions as hd
        surface = hd.slices.surface(hd.Objective(model, loss, loader))
    """,
    (OURS, "its figure"): """
        import hessian_directions as hd
        report = hd.analyze(model, loss, loader, parts=["slices"], progress=False)
        report.slices["hessian"].plot().savefig("slice.png")
    """,
    ("PyHessian", "top five eigenvalues"): """
        from pyhessian import hessian
        H = hessian(model, loss, dataloader=loader, cuda=False)
        values, vectors = H.eigenvalues(top_n=5)
    """,
    ("hessian-eigenthings", "top five eigenvalues"): """
        from hessian_eigenthings import HessianOperator, lanczos, supervised_loss
        H = HessianOperator(model, loader, supervised_loss(loss))
        values = lanczos(H, k=5, which="LA", seed=0).eigenvalues
    """,
    ("hessian-eigenthings", "both ends"): """
        from hessian_eigenthings import HessianOperator, lanczos, supervised_loss
        H = HessianOperator(model, loader, supervised_loss(loss))
        largest = lanczos(H, k=1, which="LA", seed=0)
        smallest = lanczos(H, k=1, which="SA", seed=0)
    """,
    ("hessian-eigenthings", "trace with its error"): """
        from hessian_eigenthings import HessianOperator, supervised_loss, trace
        H = HessianOperator(model, loader, supervised_loss(loss))
        estimate = trace(H, num_matvecs=99, seed=0)
    """,
    ("curvlinops", "top five eigenvalues"): """
        from curvlinops import HessianLinearOperator
        from scipy.sparse.linalg import eigsh
        parameters = list(model.parameters())
        H = HessianLinearOperator(model, loss, parameters, loader).to_scipy()
        values, vectors = eigsh(H, k=5, which="LA")
    """,
    ("curvlinops", "both ends"): """
        from curvlinops import HessianLinearOperator
        from scipy.sparse.linalg import eigsh
        parameters = list(model.parameters())
        H = HessianLinearOperator(model, loss, parameters, loader).to_scipy()
        values, vectors = eigsh(H, k=2, which="BE")
    """,
    ("Landscaper", "top five eigenvalues"): """
        from landscaper.hessian import PyHessian
        H = PyHessian(model, loss, loader, "cpu")
        values, vectors = H.eigenvalues(top_n=5)
    """,
    ("Landscaper", "its figure"): """
        from landscaper import LossLandscape
        from landscaper.hessian import PyHessian
        values, vectors = PyHessian(model, loss, loader, "cpu").eigenvalues(top_n=2)
        def evaluate(network, data):
            return sum(len(y) * loss(network(x), y).item() for x, y in data) / 500
        plane = LossLandscape.compute(model, loader, vectors, evaluate, dim=2, device="cpu")
        plane.show()
    """,
    ("nngeom", "top five eigenvalues"): """
        import nngeom as ng
        network = ng.Model(model, loss_fn=lambda m, b: loss(m(b[0]), b[1]))
        values = ng.power_iteration(network, batch, k=5).eigenvalues
    """,
    ("nngeom", "both ends"): """
        import nngeom as ng
        network = ng.Model(model, loss_fn=lambda m, b: loss(m(b[0]), b[1]))
        values = ng.lanczos_spectrum(network, batch, m=60).eigenvalues
    """,
    ("nngeom", "Hessian slice"): """
        import nngeom as ng
        network = ng.Model(model, loss_fn=lambda m, b: loss(m(b[0]), b[1]))
        vectors = ng.power_iteration(network, batch, k=2).eigenvectors
        plane = ng.plane_slice_2d(network, batch, directions=list(vectors.T), steps=25)
    """,
    ("nngeom", "its figure"): """
        import nngeom as ng
        from nngeom.visualize import plot_surface
        network = ng.Model(model, loss_fn=lambda m, b: loss(m(b[0]), b[1]))
        vectors = ng.power_iteration(network, batch, k=2).eigenvectors
        plane = ng.plane_slice_2d(network, batch, directions=list(vectors.T), steps=25)
        plot_surface(plane).figure.savefig("slice.png")
    """,
}
REMARKS = {
    ("PyHessian", "top five eigenvalues"): "largest in magnitude, without residuals",
    ("hessian-eigenthings", "both ends"): "batches count alike, whatever their size",
    ("curvlinops", "both ends"): "without residuals",
    ("Landscaper", "top five eigenvalues"): "largest in magnitude, without residuals",
    ("Landscaper", "its figure"): "two largest magnitudes, renormalised tensor by tensor",
    ("nngeom", "top five eigenvalues"): "largest in magnitude, without residuals",
    ("nngeom", "both ends"): "Ritz values of any step, without residuals",
    ("nngeom", "Hessian slice"): "two largest magnitudes",
    ("nngeom", "its figure"): "two largest magnitudes",
}


@dataclass(frozen=True)
class Row:
    """One program: its lines, and its seconds where it ran."""

    work: str
    tool: str
    lines: int
    seconds: float | None = None
    remark: str = field(default="")


def count(program: str) -> int:
    """Lines that say something; none of them is longer than 100 columns, one statement each."""
    lines = [line for line in textwrap.dedent(program).splitlines() if line.strip()]
    assert all(len(line) <= 100 and ";" not in line for line in lines)
    return len(lines)


def table(run: bool = True) -> list[Row]:
    """All programs, by work, ours first."""
    rows = []
    given = subject() if run else {}
    for work in WORK:
        for tool, module in TOOLS.items():
            if (tool, work) not in PROGRAMS:
                continue
            program, remark = PROGRAMS[tool, work], REMARKS.get((tool, work), "")
            seconds = None
            if run and importlib.util.find_spec(module) is not None:
                try:
                    seconds = timed(program, given)
                except Exception as error:
                    said = (str(error).splitlines() or [""])[0]
                    remark = f"{type(error).__name__}: {said}"
            rows.append(Row(work, tool, count(program), seconds, remark))
    return rows


def timed(program: str, given: dict[str, object]) -> float:
    """Seconds of the program's lines after its imports, in a folder of its own."""
    lines = textwrap.dedent(program).strip().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    names = dict(given)
    exec("\n".join(imports), names)
    # Names that are loaded when they are used first are imports, too.
    if "hd" in names:
        getattr(names["hd"], "Report")  # noqa: B009
    rest = "\n".join(line for line in lines if line not in imports)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                started = time.perf_counter()
                exec(rest, names)
                return time.perf_counter() - started
        finally:
            os.chdir(before)


def subject() -> dict[str, object]:
    """A small trained network with BatchNorm on 500 digits, and what the programs are given."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    images, classes = load_digits(return_X_y=True)
    inputs = torch.tensor(images[:500], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    targets = torch.tensor(classes[:500])
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 10, 3), nn.BatchNorm2d(10), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 10)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    samples = torch.utils.data.TensorDataset(inputs, targets)
    return {
        "model": model.eval(),
        "loss": nn.CrossEntropyLoss(),
        "loader": torch.utils.data.DataLoader(samples, batch_size=100),
        "batch": (inputs, targets),
    }


def markdown(rows: list[Row]) -> str:
    """The table of the README: lines, and seconds in brackets."""
    tools = [tool for tool in TOOLS if any(row.tool == tool for row in rows)]
    lines = ["| lines (seconds) | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for work in WORK:
        cells = []
        for tool in tools:
            found = [row for row in rows if (row.work, row.tool) == (work, tool)]
            cells.append("".join(_cell(row) for row in found) or "–")
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    return str(row.lines) if row.seconds is None else f"{row.lines} ({row.seconds:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="CSV file for the table")
    parser.add_argument("--count-only", action="store_true", help="run nothing")
    options = parser.parse_args()
    rows = table(run=not options.count_only)
    if options.output:
        import pandas as pd

        pd.DataFrame([vars(row) for row in rows]).to_csv(options.output, index=False)
    print(markdown(rows))
    for row in rows:
        if row.remark:
            print(f"{row.work}, {row.tool}: {row.remark}")


if __name__ == "__main__":
    main()
