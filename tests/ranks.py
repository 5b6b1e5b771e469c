"""Functions run in several processes of one group (gloo, on the CPU), as torchrun would run them."""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import networks
import torch
import torch.distributed as dist
from torch import Tensor

from hessian_directions.analyses.problem import Problem
from hessian_directions.data.dataset import Dataset, Split
from hessian_directions.errors import LostProcessError
from hessian_directions.geometry import directions, slices
from hessian_directions.objectives.evaluation import Evaluation
from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
from hessian_directions.spectral.spectrum import spectral_density
from hessian_directions.traces import estimators

# What is slow to import is imported once, by the process that the others are forked from.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "hessian_directions.overview"])


def run(function: Callable[..., Any], count: int, folder: Path, *arguments: Any) -> list[Any]:
    """function(*arguments) in `count` processes, which must be importable in them.

    What it returned in each, or the text of the error that it raised; the exit status of a process
    that ended otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        _CONTEXT.Process(target=_rank, args=(function, rank, count, folder, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
    files = [folder / f"{rank}.pt" for rank in range(count)]
    return [
        torch.load(file, weights_only=False) if file.exists() else process.exitcode
        for file, process in zip(files, processes)
    ]


def _rank(
    function: Callable[..., Any], rank: int, count: int, folder: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=count,
    )
    try:
        result = function(*arguments)
    except Exception as error:
        traceback.print_exc()
        result = f"{type(error).__name__}: {error}"
    torch.save(result, folder / f"{rank}.pt")


# What they run. -----------------------------------------------------------------------------------


def objective(name: str, shares: Sequence[int] | None = None, **options: Any) -> Objective:
    """The loss of one of the tests' networks over ten samples, of which every process has a share."""
    case = networks.problem(name)
    if shares is None:
        return Objective(case.model, case.loss, case.inputs, case.targets, **options)
    rank = dist.get_rank()
    inputs, targets = (part.split(list(shares))[rank] for part in (case.inputs, case.targets))
    return Objective(case.model, case.loss, inputs, targets, group=dist.group.WORLD, **options)


def numbers(loss: Objective) -> dict[str, Tensor]:
    """What an objective and the algorithms on it give."""
    n = loss.n_parameters
    V = directions.gaussian(n, 3, 1)
    near = loss.theta + 0.1 * directions.gaussian(n, 1, 2)[:, 0]
    pairs = extreme_eigenpairs(loss, tolerance=1e-9)
    density = spectral_density(loss, 2, 4)
    subset = loss.subset([9, 0, 4, 3])
    plane = slices.surface(loss, V[:, :2], [-0.1, 0.0, 0.1], [0.0, 0.2])
    found = {
        "value": loss.value(),
        "values": loss.values(torch.stack([loss.theta, near], 1)),
        "accuracy": torch.tensor(loss.accuracy(near)),
        "gradient": loss.gradient(near),
        "product": loss.hessian_vector_product(V[:, 0], near),
        "block of products": loss.hessian_vector_product(V),
        "Gauss–Newton": loss.gauss_newton_vector_product(V, near),
        "second derivatives": loss.second_directional_derivative(V),
        "eigenvalues": pairs.values,
        "eigenvectors": pairs.vectors * pairs.vectors.sum(0).sign(),
        "density": torch.tensor(density.moments().trace),
        "trace": estimators.directional(loss, 4).samples,
        "trace by products": estimators.hutchinson(loss, 4).samples,
        "trace by differences": estimators.finite_difference(loss, 2, step=1e-2).samples,
        "corrected": estimators.finite_difference(loss, 2, step=1e-2, kinks="correct").samples,
        "surface": torch.from_numpy(plane.values),
        "accuracies": torch.from_numpy(plane["accuracy"].values),
        "subset": subset.gradient(),
        "subset of a subset": subset.subset([1, 2]).gradient(),
        "one sample": subset.subset([0]).gradient(),
        "float32": loss.to(torch.float32).value().double(),
    }
    return found | {"samples": torch.tensor([loss.n_samples, subset.n_samples])}


def numbers_of_padded_batches(in_memory: bool) -> dict[str, Tensor]:
    """Of a loss over batches of different lengths, of which two processes have two each."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh()).double()
    shapes = [(3, 4, 2), (2, 3, 2), (1, 4, 2), (4, 6, 2)]
    batches = [(torch.randn(shape), torch.randn(*shape[:2], 3)) for shape in shapes]
    options: dict[str, Any] = {"in_memory": in_memory}
    if dist.is_initialized():
        first = 2 * dist.get_rank()
        batches, options["group"] = batches[first : first + 2], dist.group.WORLD
    loss = Objective(model, torch.nn.functional.mse_loss, batches, **options)
    subset = loss.subset([9, 0, 5, 3, 4, 6])
    return {
        "value": loss.value(),
        "gradient": loss.gradient(),
        "product": loss.hessian() @ torch.ones_like(loss.theta),
        "subset": subset.gradient(),
        "subset of a subset": subset.subset([5, 1]).gradient(),
    }


def refusals() -> dict[str, str]:
    """What two processes are told when something is wrong in the second alone, one after another."""
    second = dist.get_rank() == 1
    case = networks.problem("tanh perceptron")
    inputs, targets = case.inputs[second::2], case.targets[second::2]
    told = {}

    def note(what: str, attempt: Callable[[], Any]) -> None:
        try:
            told[what] = f"no error, but {attempt()}"
        except Exception as error:
            told[what] = f"{type(error).__name__}: {error}"

    def made(inputs: Tensor = inputs, targets: Tensor = targets, **options: Any) -> Objective:
        return Objective(case.model, case.loss, inputs, targets, group=dist.group.WORLD, **options)

    holed = inputs.clone()
    if second:
        holed[1] = torch.nan
    note("a NaN", lambda: made(holed).value())
    note("no samples", lambda: made(*((inputs[:0], targets[:0]) if second else ())))
    good = made()
    good.self_test()
    full = mock.patch.object(
        Evaluation, "batches", side_effect=torch.OutOfMemoryError("out of memory")
    )
    with full if second else contextlib.nullcontext():
        note("a full memory", good.gradient)
    note("after that", lambda: round(float(good.value()), 6))
    note("another call", good.value if second else good.gradient)
    note("another point", lambda: good.value(good.theta + second))
    note("other signs", lambda: estimators.hutchinson(good, 4, seed=int(second)).mean)
    split = Split(case.inputs[:1].float(), case.targets[:1], torch.arange(1))
    few = Dataset("nothing", split, split, 3, {})
    device = torch.device("cpu")
    studied = Problem(case.model, case.loss, few, device, torch.float64, 20, None)
    note("too few images", studied.objective)
    with torch.no_grad():
        next(case.model.parameters())[0, 0] += second
    note("another network", made)
    return told


def survivor() -> str:
    """What is said where the last process of three is killed in a pass, within a minute."""
    loss = objective("tanh perceptron", [4, 3, 3])
    loss.self_test()
    if dist.get_rank() == 2:
        die = partial(os.kill, os.getpid(), signal.SIGKILL)
        mock.patch.object(Evaluation, "batches", side_effect=die).start()
    started = time.monotonic()
    try:
        loss.gradient()
    except LostProcessError as error:
        return str(error) if time.monotonic() - started < 60 else "too late"
    return "no error"


def numbers_of(name: str, shares: Sequence[int], **options: Any) -> dict[str, Tensor]:
    return numbers(objective(name, shares, **options))
