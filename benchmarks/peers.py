"""The other tools, each used as its documentation says, so that all answer the same questions.

Vectors come as columns (N, K) in the model's order of parameters, as ours do. What a user would
prepare once is prepared outside of what is timed; peers get their vectors in the form they want.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import hessian_eigenthings
import loss_landscapes
import numpy as np
import pyhessian
import torch
from curvlinops import HessianLinearOperator
from subjects import CHANNELS_LAST, Subject
from torch import Tensor, nn

# PyHessian's and SciPy's functions are named, so that their products can be counted.
_pyhessian_module = sys.modules["pyhessian.hessian"]

# PyHessian's way to its graph; `_forget` gives the memory back that the warning is about.
warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph=True", UserWarning)

Parts = Sequence[Tensor]

PACKAGES = ("pyhessian", "curvlinops-for-pytorch", "hessian-eigenthings", "loss-landscapes")


def parts_of(vector: Tensor, model: nn.Module) -> list[Tensor]:
    """A flat vector as tensors of the parameters' shapes and layouts."""
    parameters = list(model.parameters())
    pieces = vector.split([parameter.numel() for parameter in parameters])
    return [
        torch.empty_like(parameter).copy_(piece.view(parameter.shape)).detach()
        for parameter, piece in zip(parameters, pieces)
    ]


def flat(parts: Parts) -> Tensor:
    """The inverse of `parts_of`."""
    return torch.cat([part.detach().reshape(-1) for part in parts])


class Peer:
    """A tool that multiplies the Hessian of a subject with vectors."""

    name: str

    def __init__(self, subject: Subject, layout: str) -> None:
        self.subject, self.layout = subject, layout
        self.model, self.inputs = subject.in_layout(layout)
        self.batches = [(self.inputs, subject.targets)]

    def __str__(self) -> str:
        return f"{self.name}, {self.layout}"

    def multiplication(self, V: Tensor) -> Callable[[], list[Tensor]]:
        """A function without arguments that computes Hv for all columns v, K × (N,)."""
        raise NotImplementedError


class PyHessian(Peer):
    """Double backward in reverse mode (Yao et al. 2020)."""

    name = "PyHessian"

    def multiplication(self, V: Tensor) -> Callable[[], list[Tensor]]:
        vectors = [parts_of(v, self.model) for v in V.T]
        if len(vectors) == 1:
            hessian = self._hessian(dataloader=self.batches)
            return lambda: [flat(hessian.dataloader_hv_product(vectors[0])[1])]

        # With a single batch all vectors share the graph of the gradient, which is its fastest way.
        def multiply() -> list[Tensor]:
            hessian = self._hessian(data=self.batches[0])
            product = _pyhessian_module.hessian_vector_product
            products = [flat(product(hessian.gradsH, hessian.params, v)) for v in vectors]
            self._forget()
            return products

        return multiply

    def trace(self, seed: int) -> list[float]:
        """The samples of its estimator, with its own stopping rule and its default settings."""
        torch.manual_seed(seed)  # it draws from the global generator
        samples = self._hessian(data=self.batches[0]).trace()
        self._forget()
        return samples

    def largest(self, seed: int, tolerance: float, max_products: int) -> tuple[float, Tensor, int]:
        """Eigenvalue of largest magnitude by power iteration, its vector, products made."""
        torch.manual_seed(seed)
        hessian = self._hessian(data=self.batches[0])
        product, count = _pyhessian_module.hessian_vector_product, 0

        def counted(*arguments: object) -> Parts:
            nonlocal count
            count += 1
            return product(*arguments)

        _pyhessian_module.hessian_vector_product = counted
        try:
            values, vectors = hessian.eigenvalues(maxIter=max_products, tol=tolerance)
        finally:
            _pyhessian_module.hessian_vector_product = product
        self._forget()
        return values[0], flat(vectors[0]), count

    def _hessian(self, **data: object) -> pyhessian.hessian:
        cuda = self.subject.device.type == "cuda"
        return pyhessian.hessian(self.model, self.subject.loss, cuda=cuda, **data)

    def _forget(self) -> None:
        """Cut the cycle between parameters and the graph of their gradients."""
        self.model.zero_grad(set_to_none=True)


class Curvlinops(Peer):
    """Forward mode over reverse mode, vectorised over columns (Dangel et al.)."""

    name = "curvlinops"

    def multiplication(self, V: Tensor) -> Callable[[], list[Tensor]]:
        H = HessianLinearOperator(
            self.model,
            self.subject.loss,
            list(self.model.parameters()),
            self.batches,
            check_deterministic=False,
        )
        # Vectorised convolutions lose channels-last, where one column after the other is faster.
        if self.layout == CHANNELS_LAST:
            columns = [v.contiguous() for v in V.T]
            return lambda: [H @ v for v in columns]
        return lambda: list((H @ V).T)


class Eigenthings(Peer):
    """Double backward in reverse mode (Golmant et al.)."""

    name = "hessian-eigenthings"

    def operator(self) -> hessian_eigenthings.HessianOperator:
        loss = hessian_eigenthings.supervised_loss(self.subject.loss)
        return hessian_eigenthings.HessianOperator(self.model, self.batches, loss)

    def multiplication(self, V: Tensor) -> Callable[[], list[Tensor]]:
        operator, columns = self.operator(), [v.contiguous() for v in V.T]
        return lambda: [operator.matvec(v) for v in columns]

    def extreme(self, which: str, n_products: int, seed: int) -> tuple[float, Tensor]:
        """The algebraically largest ("LA") or smallest ("SA") eigenpair after so many products."""
        result = hessian_eigenthings.lanczos(
            self.operator(), k=1, max_iter=n_products, which=which, seed=seed
        )
        return float(result.eigenvalues[0]), result.eigenvectors[0]


MULTIPLIERS: tuple[type[Peer], ...] = (PyHessian, Curvlinops, Eigenthings)


@dataclass(frozen=True)
class LossLandscapes:
    """Loss on a plane through three networks (loss-landscapes)."""

    subject: Subject
    layout: str
    name = "loss-landscapes"

    def surface(self, directions: Tensor, steps: int) -> Callable[[], np.ndarray]:
        """A function that evaluates steps × steps points along the columns of `directions`."""
        model, inputs = self.subject.in_layout(self.layout)
        ends = []
        for direction in directions.T:
            end, _ = self.subject.in_layout(self.layout)
            with torch.no_grad():
                for parameter, part in zip(end.parameters(), parts_of(direction, end)):
                    parameter.add_(part, alpha=steps)
            ends.append(end)
        metric = loss_landscapes.metrics.Loss(self.subject.loss, inputs, self.subject.targets)
        # It moves the network's own weights and leaves them moved, so it works on a copy.
        return lambda: loss_landscapes.planar_interpolation(
            model, *ends, metric, steps=steps, deepcopy_model=True
        )

    @staticmethod
    def places(steps: int) -> np.ndarray:
        """The coordinate along the second direction at which each entry was really evaluated.

        Rows of even number begin one step further than the others.
        """
        columns = np.arange(steps)
        return np.stack([columns + 1 if row % 2 == 0 else columns for row in range(steps)])
