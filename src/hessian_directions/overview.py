"""Everything that one looks at first, of one network, in one call.

report = analyze(model, loss, loader, test=test_loader)
report.eigenpairs, report.trace, report.spectrum, report.slices["hessian"]
report.plot()
report.save("mine.html")
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from hessian_directions.errors import (
    ArgumentError,
    ConfigurationError,
    DependencyError,
    require_count,
    require_number,
)
from hessian_directions.files import atomic_path
from hessian_directions.geometry import slices, visibility
from hessian_directions.geometry.directions import gaussian, unit
from hessian_directions.geometry.localisation import localise
from hessian_directions.geometry.principal_curvatures import visibility as gaussian_limit
from hessian_directions.geometry.slices import Plane
from hessian_directions.objectives.losses import Loss
from hessian_directions.objectives.objective import Objective
from hessian_directions.operators import require_objective
from hessian_directions.progress import Progress, Status, duration, seconds_of
from hessian_directions.reporting.report.document import render
from hessian_directions.reporting.report.results import Results
from hessian_directions.seeds import as_generator
from hessian_directions.spectral.eigenpairs import Eigenpairs, extreme_eigenpairs
from hessian_directions.spectral.spectrum import SpectralDensity, spectral_density
from hessian_directions.traces import estimators
from hessian_directions.traces.estimators import Estimate
from hessian_directions.traces.finite_differences import in_float64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANES: tuple[Plane, ...] = ("random", "hessian")

PARTS = (
    "scores",
    "eigenpairs",
    "trace",
    "spectrum",
    "slices",
    "lines",
    "localisation",
    "visibility",
)

# Points of a line, start vectors and Lanczos steps of the spectrum, random planes: a first look.
LINE_POINTS = 41
PROBES, STEPS = 4, 50
RANDOM_PLANES = 50

# Of the bases that the spectrum's probes hold together, 1 GB in float32; probes share passes up to it.
MOST_NUMBERS = 2**28

# Vectors and points that share passes when their cost is measured.
TOGETHER = 4

# What trained networks took: products for both ends and their check; samples of the deflated trace,
# each of which costs half a product.
TYPICAL_EIGENPAIR_PRODUCTS = 80
TYPICAL_TRACE_SAMPLES = 80


def analyze(
    model: nn.Module,
    loss: Loss,
    data: Any,
    targets: Any = None,
    *,
    test: Any = None,
    parts: Iterable[str] = PARTS,
    seed: int = 0,
    n_points: int = 21,
    relative_error: float = 0.05,
    progress: bool = True,
    label: str | None = None,
    **options: Any,
) -> Report:
    """Analyse the loss around a network's weights, and say first what that will cost.

    Args:
        model, loss, data, targets: As for `Objective`: a DataLoader, a Dataset or batches as data,
            or inputs and targets as arrays.
        test: Data of another split, of the same form; with `targets` a pair (inputs, targets). Its
            loss is evaluated in the same slices.
        parts: What to compute at once, of `PARTS`; the rest is computed when it is asked for.
        seed: Everything random follows from it.
        n_points: Points of a slice's grid along each of its axes, odd.
        relative_error: Wanted standard error of the trace, relative to it.
        progress: Write the predicted cost and how far it is to the standard error stream.
        label: Printed name; that of the model's class if there is none.
        **options: Further options of `Objective`, such as batch_size.

    Returns:
        Report. Memory and cost are those of the parts.

    Raises:
        ConfigurationError: A part is unknown, the test data are no pair, or a number is none.
        HessianDirectionsError: What the objective and the parts raise.
    """
    wanted = _parts(parts)
    objective = Objective(model, loss, data, targets, **options)
    other = None
    if test is not None:
        if targets is None:
            pair: tuple[Any, ...] = (test,)
        elif isinstance(test, tuple | list) and len(test) == 2:
            pair = tuple(test)
        else:
            raise ConfigurationError(
                "The test data must be a pair (inputs, targets), as the training data are."
            )
        other = Objective(model, loss, *pair, **options)
    report = Report(
        objective,
        other,
        label=label or type(model).__name__,
        seed=seed,
        n_points=n_points,
        relative_error=relative_error,
        progress=progress,
    )
    report.compute(wanted)
    return report


def _parts(parts: Iterable[str]) -> tuple[str, ...]:
    """Parts of a report, or the name of one."""
    if not isinstance(parts, Iterable):
        raise ConfigurationError(f"The parts are {parts!r}, not some of {', '.join(PARTS)}.")
    wanted = (parts,) if isinstance(parts, str) else tuple(parts)
    for part in wanted:
        if part not in PARTS:
            raise ConfigurationError(f"The part is {part!r}, not one of {', '.join(PARTS)}.")
    return wanted


@dataclass(frozen=True)
class Slice:
    """One plane through the weights.

    Attributes:
        plane: "random" or "hessian".
        train: Training loss over it, as `slices.surface` returns it.
        test: Test loss at the same points, where there are test data.
    """

    plane: str
    train: xr.DataArray
    test: xr.DataArray | None

    def datasets(self) -> dict[str, xr.Dataset]:
        """By "{plane}_{split}", as figures take them."""
        given = {"train": self.train, "test": self.test}
        return {
            f"{self.plane}_{split}": loss.to_dataset()
            for split, loss in given.items()
            if loss is not None
        }

    def plot(self) -> Figure:
        """The slice relative to the loss of the network, as a Matplotlib figure."""
        surfaces = {self.plane: self.datasets()}
        return _figure("slices", "The plot of a slice", surfaces, {}, ("train", "test"))


class Report:
    """What was found around one network; every part is computed when it is first asked for.

    Attributes:
        objective, test_objective: The losses over the training and the test data, if there are any.
        label, seed: As `analyze` was given them.
    """

    def __init__(
        self,
        objective: Objective,
        test_objective: Objective | None = None,
        *,
        label: str = "network",
        seed: int = 0,
        n_points: int = 21,
        relative_error: float = 0.05,
        progress: bool = False,
    ) -> None:
        require_objective(objective)
        if test_objective is not None:
            _require_same_weights(objective, test_objective)
        if isinstance(seed, torch.Generator):
            raise ArgumentError("The seed must be an integer: parts are computed in any order.")
        as_generator(seed, "report")  # refused before anything is computed
        require_number("relative_error", relative_error)
        self.objective, self.test_objective = objective, test_objective
        require_count("n_points", n_points, least=3)
        if n_points % 2 == 0:
            raise ArgumentError(
                f"n_points must be odd, not {n_points}: a slice has its centre at the weights."
            )
        self.label, self.seed = str(label), seed
        self._n_points, self._relative_error = n_points, relative_error
        self._line = _ProgressLine(progress)

    def compute(self, parts: Iterable[str] = PARTS) -> None:
        """Compute these parts, as far as that was not done, and what they need."""
        missing = [part for part in _parts(parts) if part not in self.__dict__]
        if missing:
            self._line.write(self._prediction(missing))
            for part in missing:
                getattr(self, part)
            self._line.end()

    def _prediction(self, parts: Sequence[str]) -> str:
        """Passes and seconds that the parts will take, from one pass of each kind."""
        self._line.show("self-test")
        objective, n = self.objective, self.objective.n_parameters
        objective.self_test()
        V = torch.ones(n, TOGETHER, dtype=objective.dtype, device=objective.device)
        objective.hessian_vector_product(V[:, 0])  # warms up
        product = seconds_of(lambda: objective.hessian_vector_product(V[:, 0]))
        shared = seconds_of(lambda: objective.hessian_vector_product(V)) / TOGETHER
        points = objective.theta[:, None].expand(-1, TOGETHER)
        forward = seconds_of(lambda: objective.values(points)) / TOGETHER
        n_points = len(PLANES) * self._n_points**2 * (1 if self.test_objective is None else 2)
        eigenpairs = min(TYPICAL_EIGENPAIR_PRODUCTS, 3 * n) if "eigenpairs" in parts else 0
        products = {
            "trace": TYPICAL_TRACE_SAMPLES // 2,
            "spectrum": PROBES * min(STEPS, n),
            "visibility": 2 * RANDOM_PLANES,
        }
        passes = {"slices": n_points, "lines": 4 * LINE_POINTS}
        others = sum(count for part, count in products.items() if part in parts)
        values = sum(count for part, count in passes.items() if part in parts)
        seconds = eigenpairs * product + others * shared + values * forward
        return (
            f"{self.label}: {n:,} parameters, {objective.n_samples:,} samples. About "
            f"{eigenpairs + others} Hessian-vector products ({product:.2g} s) and {values} forward "
            f"passes ({forward:.2g} s): {duration(seconds)}."
        )

    @cached_property
    def scores(self) -> dict[str, float]:
        """Loss, accuracy (NaN without classes), ‖∇L‖, ‖θ‖, N and the number of samples; of the test data, too."""
        self._line.show("scores")
        objective = self.objective
        found = {
            "loss": float(objective.value()),
            "accuracy": objective.accuracy(),
            "gradient_norm": float(objective.gradient().double().norm()),
            "theta_norm": float(objective.theta.double().norm()),
            "n_parameters": objective.n_parameters,
            "n_samples": objective.n_samples,
        }
        if self.test_objective is not None:
            found["test_loss"] = float(self.test_objective.value())
            found["test_accuracy"] = self.test_objective.accuracy()
            found["n_test_samples"] = self.test_objective.n_samples
        return found

    @cached_property
    def eigenpairs(self) -> Eigenpairs:
        """Both extreme eigenpairs, with residuals."""
        k = min(1, self.objective.n_parameters - 1)
        return extreme_eigenpairs(
            self.objective, k, 1, seed=self.seed, progress=self._line.part("eigenpairs")
        )

    @cached_property
    def trace(self) -> Estimate:
        """The trace: exact along the eigenvectors, sampled beside them, with its standard error."""
        return estimators.deflated(
            self.objective,
            self.eigenpairs,
            seed=self.seed,
            relative_error=self._relative_error,
            progress=self._line.part("trace"),
        )

    @cached_property
    def spectrum(self) -> SpectralDensity:
        """The distribution of the eigenvalues, by Lanczos quadrature."""
        basis = (STEPS + 16) * self.objective.n_parameters  # numbers of one probe
        return spectral_density(
            self.objective,
            PROBES,
            STEPS,
            self.seed,
            probes_at_once=max(1, min(PROBES, MOST_NUMBERS // basis)),
            progress=self._line.part("spectrum"),
        )

    @cached_property
    def slices(self) -> dict[str, Slice]:
        """The loss over a random and over the Hessian plane, "random" and "hessian"; of one parameter,
        which spans no plane, there are none.
        """
        planes = PLANES if self.objective.n_parameters > 1 else ()
        return {plane: self._slice(plane) for plane in planes}

    def _slice(self, plane: Plane) -> Slice:
        if plane == "hessian":
            directions = slices.both_ends(self.eigenpairs.vectors)
        else:
            directions = slices.plane_directions(self.objective, plane, self.seed)
        train = slices.surface(
            self.objective,
            directions,
            normalisation=slices.NORMALISATIONS[plane],
            n_points=self._n_points,
            progress=self._line.part(f"{plane} slice, training"),
        )
        if self.test_objective is None:
            return Slice(plane, train, None)
        test = slices.surface(
            self.test_objective,
            directions,
            train["alpha"].values,
            train["beta"].values,
            slices.NORMALISATIONS[plane],
            self._line.part(f"{plane} slice, test"),
        )
        return Slice(plane, train, test)

    @cached_property
    def lines(self) -> xr.Dataset:
        """Loss, slope and curvature along two random lines and along both extreme eigenvectors."""
        objective = self.objective
        generator = as_generator(self.seed, "lines")
        n = objective.n_parameters
        random = unit(gaussian(n, 2, generator, objective.dtype, objective.device))
        ends = slices.both_ends(self.eigenpairs.vectors).flip(1)
        V = torch.cat([random, ends], dim=1)
        radius = float(np.exp(np.log(slices.half_widths(objective, ends)).mean()))
        loss = slices.line(
            objective, V, slices.grid(radius, LINE_POINTS), progress=self._line.part("lines")
        )
        return xr.Dataset(
            {
                "loss": (("direction", "distance"), loss.values),
                "slope": ("direction", (V.T.double() @ objective.gradient().double()).cpu()),
                "curvature": ("direction", objective.second_directional_derivative(V).cpu()),
            },
            coords={
                "direction": ["random_0", "random_1", "smallest", "largest"],
                "distance": loss["alpha"].values,
            },
        )

    @cached_property
    def localisation(self) -> xr.Dataset:
        """Where the curvature lives, see `geometry.localisation.localise`."""
        self._line.show("where the curvature lives")
        objective = self.objective
        return localise(self.eigenpairs.vectors, objective.parameters, objective.network)

    @cached_property
    def visibility(self) -> xr.Dataset:
        """Sampled projected Hessians and the share that shows a saddle, beside the Gaussian limit."""
        matrices = visibility.sample_projections(
            self.objective, RANDOM_PLANES, self.seed, self._line.part("random planes")
        )
        moments = self.spectrum.moments()
        trace, frobenius = self.trace.mean, moments.frobenius_norm
        scalars = {
            "trace": trace,
            "trace_standard_error": self.trace.standard_error,
            "frobenius_norm": frobenius,
            "frobenius_standard_error": moments.frobenius_standard_error,
            "r": trace / frobenius if frobenius else float("nan"),
            **visibility.share_of_saddles(matrices).named("visibility_direct"),
        }
        scalars["visibility_formula"] = float(gaussian_limit(scalars["r"]))
        projected = {"projected_hessian": (("sample", "row", "column"), matrices)}
        return xr.Dataset(projected | scalars)

    def __str__(self) -> str:
        """What has been computed so far, in a few lines."""
        found = self.__dict__
        lines = [self.label]
        if "scores" in found:
            names = ("loss", "accuracy", "gradient_norm", "test_loss", "test_accuracy")
            said = [f"{name} {self.scores[name]:.4g}" for name in names if name in self.scores]
            lines.append(", ".join(said))
        if "eigenpairs" in found:
            lines.append(self.eigenpairs.describe())
        if "trace" in found:
            lines.append(f"trace {self.trace.mean:.5g} ± {self.trace.standard_error:.2g}")
        if "visibility" in found:
            share = 100 * float(self.visibility["visibility_direct"])
            lines.append(f"{share:.0f} % of random slices show curvature of both signs")
        return "\n".join(lines)

    def results(self) -> Results:
        """What has been computed so far, as data sets."""
        found = self.__dict__
        planes = found.get("slices", {}).values()
        return Results(
            label=self.label,
            scores=self._scores_dataset() if "scores" in found else None,
            eigenpairs=self._pairs_checked if "eigenpairs" in found else None,
            trace=self._trace_dataset() if "trace" in found else None,
            spectrum=self.spectrum.dataset() if "spectrum" in found else None,
            slices={key: one for plane in planes for key, one in plane.datasets().items()},
            lines=found.get("lines"),
            visibility=found.get("visibility"),
            localisation=found.get("localisation"),
            settings=self.settings(),
        )

    def settings(self) -> dict[str, Any]:
        """What made these numbers."""
        objective = self.objective
        passes = ", ".join(f"{count} {kind}" for kind, count in objective.cost.passes.items())
        return {
            "seed": self.seed,
            "precision": str(objective.dtype).removeprefix("torch."),
            "device": str(objective.device),
            "threads": torch.get_num_threads(),
            "mode": "evaluation (BatchNorm uses its running statistics)",
            "points of a slice": f"{self._n_points} × {self._n_points}",
            "wanted relative error of the trace": self._relative_error,
            "passes over the training data": passes.replace("_", " "),
        }

    def plot(self) -> Figure:
        """One Matplotlib figure of what has been computed."""
        return _figure("overview", "report.plot", self.results())

    def save(self, path: str | Path) -> None:
        """Write one self-contained page (HTML) of what has been computed.

        Raises:
            ConfigurationError: The file's name does not end in .html.
            DependencyError: Plotly is not installed.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ConfigurationError(f"{path} does not end in .html, but a page is written.")
        page = render({"network": self.results()}, self.label, _software())
        with atomic_path(path) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def _scores_dataset(self) -> xr.Dataset:
        names = {"accuracy": "train_accuracy", "n_samples": "n_images"}
        return xr.Dataset(
            {names.get(name, name): value for name, value in self.scores.items()},
            attrs={"self_test": self.objective.self_test().describe()},
        )

    @cached_property
    def _pairs_checked(self) -> xr.Dataset:
        """The eigenpairs with the exact curvature along each, without a product, in float64 where the
        network has it.
        """
        pairs, precise = self.eigenpairs, self.objective
        if precise.self_test().precision == "float64":
            precise = in_float64(precise)
        exact = precise.second_directional_derivative(pairs.vectors.to(precise.dtype))
        return pairs.dataset().assign(exact_curvature=("pair", exact.cpu()))

    def _trace_dataset(self) -> xr.Dataset:
        estimate = self.trace
        return xr.Dataset(
            {
                "trace": estimate.mean,
                "trace_standard_error": estimate.standard_error,
                "n_samples": estimate.n_samples,
            }
        )


def _require_same_weights(objective: Objective, other: Objective) -> None:
    """Refuse a test loss at other weights, whose slices would lie elsewhere."""
    require_objective(other)
    ours, theirs = (o.theta.cpu() for o in (objective, other))
    coarser = min(ours.dtype, theirs.dtype, key=lambda dtype: dtype.itemsize)
    ours, theirs = ours.to(coarser), theirs.to(coarser)
    same = ours.shape == theirs.shape and torch.allclose(ours, theirs, 0, 0, equal_nan=True)
    if not same:
        raise ArgumentError(
            "The test objective has other weights than the objective: make both of one network."
        )


class _ProgressLine:
    """One line on the standard error stream, which overwrites itself on a terminal."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._overwrites = shown and sys.stderr.isatty()
        self._part = ""
        self._written_at = 0.0

    def write(self, text: str) -> None:
        """A line that stays."""
        if self._shown:
            self.end()
            print(text, file=sys.stderr, flush=True)

    def show(self, part: str) -> None:
        """The part that is being computed."""
        if self._overwrites:
            print(f"\r\033[K{part}", end="", file=sys.stderr, flush=True)
        elif self._shown and part != self._part:
            print(part, file=sys.stderr, flush=True)
        self._part = part

    def part(self, name: str) -> Progress:
        """A progress callback for this part, which does not write more often than one can read."""
        self.show(name)

        def tell(status: Status) -> None:
            if self._overwrites and time.monotonic() - self._written_at > 0.2:
                self._written_at = time.monotonic()
                print(f"\r\033[K{name}: {status}"[:120], end="", file=sys.stderr, flush=True)

        return tell

    def end(self) -> None:
        """Leave nothing behind."""
        if self._overwrites:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _figure(module: str, what: str, *drawn: Any) -> Figure:
    """Drawn by a module of the figures, which need packages that the library alone does not."""
    try:
        figures = import_module(f"hessian_directions.reporting.figures.{module}")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise DependencyError(
            f"{what} needs {package}: pip install 'hessian-directions[figures]'."
        ) from error
    figure: Figure = figures.draw(*drawn)
    return figure


def _software() -> Mapping[str, str]:
    from hessian_directions import __version__

    others = ("torch", "numpy", "scipy", "xarray")
    found = {"hessian-directions": __version__, "Python": platform.python_version()}
    return found | {name: version(name) for name in others}
