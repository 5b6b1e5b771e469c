"""The Lanczos process with full reorthogonalisation: H Q = Q T + β q e', Q'Q = I, T tridiagonal.

What eigenpairs and spectral densities share. Vectors stay in H's precision and on H's device; the
small tridiagonal problem is float64 on the CPU.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.special import betainc
from torch import Tensor

from hessian_directions.arrays import Floats
from hessian_directions.errors import NonFiniteError
from hessian_directions.operators import Operator
from hessian_directions.random_vectors import gaussian

# Rows of the basis that are allocated together: memory grows with the steps really made, and each
# projection is still a product with a matrix.
BLOCK_ROWS = 16

# What remains of a product below this many units of rounding of ‖H‖ is rounding: the Krylov space
# is invariant.
BREAKDOWN_ROUNDINGS = 10.0

# Two sweeps of classical Gram–Schmidt are enough (Giraud, Langou, Rozložník and van den Eshof 2005)
# unless the second still removes half of the vector, as happens next to a breakdown.
MAX_SWEEPS = 5


# Entries of float32 vectors that are converted to float64 together: on the CPU what fits its cache,
# elsewhere what keeps the device busy.
ENTRIES_AT_ONCE_CPU = 1 << 14
ENTRIES_AT_ONCE = 1 << 20


class Basis:
    """Orthonormal vectors, stored as rows of blocks (16, N) that are allocated when needed."""

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.n, self.dtype, self.device = n, dtype, device
        self._blocks: list[Tensor] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def last(self) -> Tensor:
        """The vector appended last, (N,)."""
        return self.blocks[-1][-1]

    @property
    def blocks(self) -> list[Tensor]:
        """The vectors as rows of matrices (≤ 16, N), in order; views."""
        starts = range(0, self._length, BLOCK_ROWS)
        return [block[: self._length - start] for start, block in zip(starts, self._blocks)]

    def append(self, vector: Tensor) -> None:
        """Store a copy of a vector (N,)."""
        row = self._length % BLOCK_ROWS
        if row == 0:
            self._blocks.append(
                torch.empty(BLOCK_ROWS, self.n, dtype=self.dtype, device=self.device)
            )
        self._blocks[-1][row] = vector
        self._length += 1

    def combine(self, coefficients: Floats) -> Tensor:
        """Q S for the first rows of S: (m, k) -> (N, k), m at most the number of vectors."""
        total = torch.zeros(self.n, coefficients.shape[1], dtype=self.dtype, device=self.device)
        parts = torch.as_tensor(coefficients, device="cpu").split(BLOCK_ROWS)
        for block, part in zip(self.blocks, parts):
            total += block[: len(part)].T @ part.to(total)
        return total


def orthogonalise(vector: Tensor, blocks: Sequence[Tensor]) -> tuple[Tensor, Floats, float]:
    """Remove from a vector its components along orthonormal rows, by Gram–Schmidt done twice.

    Args:
        vector: (N,); it is not changed.
        blocks: Matrices (rows, N) whose rows together are orthonormal.

    Returns:
        The remainder (N,), the coefficients removed (float64, one per row), the remainder's norm.
    """
    norm = length(vector)
    removed = np.zeros(sum(len(block) for block in blocks))
    for sweep in range(MAX_SWEEPS):
        coefficients = [inner(block, vector) for block in blocks]
        for block, c in zip(blocks, coefficients):
            vector = torch.addmv(vector, block.T, c.to(vector.dtype), alpha=-1)
        if coefficients:
            removed += torch.cat(coefficients).cpu().numpy()
        before, norm = norm, length(vector)
        if sweep > 0 and norm > before / 2:
            break
    return vector, removed, norm


def random_start(
    H: Operator, generator: torch.Generator, orthogonal_to: Sequence[Tensor] = ()
) -> Tensor:
    """A unit vector with a uniformly distributed direction, in the complement of given rows: (N,).

    Args:
        orthogonal_to: Matrices (rows, N) with fewer than N orthonormal rows in all.
    """
    vector = gaussian(H.shape[0], 1, generator, H.dtype, H.device)[:, 0]
    vector, _, norm = orthogonalise(vector / length(vector), orthogonal_to)
    return vector / norm


class Lanczos:
    """One Krylov process of H, optionally in the orthogonal complement of given vectors.

    The caller makes the products, so that several processes can share one product with several
    vectors: ``process.advance(H @ process.current)`` is one step.

    Memory: (m + 16)·N·itemsize bytes after m steps, and about four vectors while stepping.

    Args:
        start: (N,) unit vector.
        deflated: (N, k) orthonormal columns V, if any; then the process is that of (I − VV')H(I −
            VV') and ``start`` has to be orthogonal to V.

    Attributes:
        alphas, betas: Diagonal of T and what follows it beside the diagonal: after m steps there
            are m of each, the last β couples T to the next vector. β is 0 where the process met an
            invariant subspace.
        asymmetry: Largest norm, over the steps, of the components of a product along the earlier
            vectors that vanish for a symmetric H.
    """

    def __init__(self, start: Tensor, deflated: Tensor | None = None) -> None:
        self.basis = Basis(start.shape[0], start.dtype, start.device)
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.asymmetry = 0.0
        self._largest_product = 0.0
        self._deflated = [] if deflated is None else [deflated.T.contiguous()]
        self.basis.append(start)

    @property
    def n_steps(self) -> int:
        return len(self.alphas)

    @property
    def invariant(self) -> bool:
        """Whether the Krylov space is invariant, so that there is no next vector."""
        return len(self.basis) == self.n_steps

    @property
    def complete(self) -> bool:
        """Whether the Krylov space (with the deflated vectors) is the whole space."""
        n_deflated = sum(len(rows) for rows in self._deflated)
        return self.invariant and self.n_steps + n_deflated >= self.basis.n

    @property
    def current(self) -> Tensor:
        """The vector (N,) whose product with H the next step needs."""
        return self.basis.last

    def advance(self, product: Tensor) -> None:
        """Make one step with H q, (N,), where q is the current vector.

        Raises:
            NonFiniteError: The product is not finite.
        """
        size = length(product)
        if not math.isfinite(size):
            raise NonFiniteError(
                f"The product of H with Krylov vector {self.n_steps} is not finite."
            )
        self._largest_product = max(self._largest_product, size)
        rows = [*self._deflated, *self.basis.blocks]
        remainder, removed, beta = orthogonalise(product, rows)
        coefficients = removed[len(removed) - len(self.basis) :]

        unexpected = coefficients[:-1].copy()
        if len(unexpected) > 0:
            unexpected[-1] -= self.betas[-1]
        self.asymmetry = max(self.asymmetry, float(np.linalg.norm(unexpected)))

        self.alphas.append(float(coefficients[-1]))
        rounding = torch.finfo(self.basis.dtype).eps * self._largest_product
        if len(removed) == self.basis.n or beta <= BREAKDOWN_ROUNDINGS * rounding:
            self.betas.append(0.0)
            return
        self.betas.append(beta)
        self.basis.append(remainder / beta)

    def restart(self, H: Operator, generator: torch.Generator) -> None:
        """Continue from an invariant subspace with a random vector orthogonal to it.

        T then falls into blocks: this is how copies of a multiple eigenvalue are found, of which
        one start vector sees only one.
        """
        self.basis.append(random_start(H, generator, [*self._deflated, *self.basis.blocks]))

    def ritz_values(self, k_smallest: int, k_largest: int) -> tuple[Floats, Floats, float]:
        """Extreme eigenvalues of T with the norms of their residuals, and ‖T‖₂ ≤ ‖H‖₂.

        Returns:
            Values (k,) ascending and residual norms (k,), float64, where k is
            ``k_smallest + k_largest``, or the number of steps if that is less; and the norm.
            The residuals are those of exact arithmetic, |β s_m| with s the eigenvector of T.
        """
        m = self.n_steps
        low, high = max(k_smallest, 1), max(k_largest, 1)
        if m <= low + high:
            values, S = self._eigh()
        else:
            values_low, S_low = self._eigh((0, low - 1))
            values_high, S_high = self._eigh((m - high, m - 1))
            values = np.concatenate([values_low, values_high])
            S = np.concatenate([S_low, S_high], axis=1)
        norm = float(np.abs(values).max())
        wanted = ends_of(len(values), k_smallest, k_largest)
        return values[wanted], self.betas[-1] * np.abs(S[-1, wanted]), norm

    def ritz_vectors(self, k_smallest: int, k_largest: int) -> Tensor:
        """The vectors (N, k) that belong to `ritz_values`."""
        # The whole problem at once: eigenvectors of separate ranges need not be orthogonal.
        _, S = self._eigh()
        return self.basis.combine(S[:, ends_of(self.n_steps, k_smallest, k_largest)])

    def quadrature(self) -> tuple[Floats, Floats]:
        """Nodes and weights of the Gauss rule of the start vector's spectral measure.

        Σ w_i f(θ_i) approximates v'f(H)v, exactly for polynomials of degree up to 2m − 1: θ_i are
        the eigenvalues of T, w_i the squared first entries of its eigenvectors (Golub and Welsch
        1969; Golub and Meurant 2010).

        Returns:
            Nodes (m,) ascending and weights (m,), which are ≥ 0 and sum to 1.
        """
        nodes, S = self._eigh()
        weights = S[0] ** 2
        return nodes, weights / weights.sum()

    def weight_bound(self, x: float) -> float:
        """Bound on the start vector's weight on all eigenvectors with eigenvalue x or beyond it.

        The Christoffel function 1/Σ_{i≤m} p_i(x)² with the orthonormal polynomials p_i of the
        spectral measure: no measure with the moments that T determines puts more mass at x or
        beyond (Chebyshev, Markov, Stieltjes; Akhiezer 1965). Meant for an x outside the range of
        the Ritz values; the bound falls there geometrically with the number of steps.
        """
        before, p, total, beta_before = 0.0, 1.0, 1.0, 0.0
        for alpha, beta in zip(self.alphas, self.betas):
            if beta == 0:
                return 0.0
            before, p = p, ((x - alpha) * p - beta_before * before) / beta
            beta_before = beta
            total += p * p
            if total > 1e200:
                break
        return 1 / total

    def _eigh(self, indices: tuple[int, int] | None = None) -> tuple[Floats, Floats]:
        """Eigenvalues of T ascending and its eigenvectors (m, ·), all or from first to last."""
        diagonal, beside = np.array(self.alphas), np.array(self.betas[: self.n_steps - 1])
        select = "a" if indices is None else "i"
        values, S = eigh_tridiagonal(diagonal, beside, select=select, select_range=indices)
        return np.asarray(values, dtype=np.float64), np.asarray(S, dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """Numbers and vectors from which `from_state` continues to the same bits."""
        return {
            "alphas": list(self.alphas),
            "betas": list(self.betas),
            "asymmetry": self.asymmetry,
            "largest_product": self._largest_product,
            "basis": self.basis.blocks,
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], device: torch.device, deflated: Tensor | None = None
    ) -> "Lanczos":
        """The process whose `state` is given, on a device; the deflated vectors come apart."""
        rows = itertools.chain.from_iterable(state["basis"])
        process = cls(next(rows).to(device), deflated)
        for row in rows:
            process.basis.append(row)
        process.alphas, process.betas = state["alphas"], state["betas"]
        process.asymmetry, process._largest_product = state["asymmetry"], state["largest_product"]
        return process

    def made_by(self, H: Operator, norm: float = 0.0) -> bool:
        """Whether H has made this process: H q₀ = α₀q₀ + β₀q₁, q₀ being random; one product.

        To half the digits of the product, since devices and threads sum in another order, and to
        the rounding of a larger ‖H‖, where that is known: with deflation, the part of H q₀ along
        the deflated vectors is left out, and the rest may be rounding.
        """
        first = self.basis.blocks[0]
        product, _, _ = orthogonalise(H @ first[0], self._deflated)
        expected = self.alphas[0] * first[0]
        if len(self.basis) > 1 and self.betas[0] > 0:
            expected = expected + self.betas[0] * first[1]
        epsilon = torch.finfo(self.basis.dtype).eps
        allowed = math.sqrt(epsilon) * length(expected) + BREAKDOWN_ROUNDINGS * epsilon * norm
        return length(product - expected) <= allowed


def ends_of(m: int, k_smallest: int, k_largest: int) -> NDArray[np.int64]:
    """Indices of the wanted entries among m ascending ones: all of them if m is too small."""
    if m <= k_smallest + k_largest:
        return np.arange(m)
    return np.concatenate([np.arange(k_smallest), np.arange(m - k_largest, m)])


def probability_of_less(weight: float, n: int) -> float:
    """Probability that a random unit vector in n dimensions has less weight on a given direction.

    The weight, its squared component, has a beta distribution with parameters ½ and (n − 1)/2.
    """
    if weight == 0:
        return 0.0
    return float(betainc(0.5, (n - 1) / 2, min(weight, 1.0))) if n > 1 else float(weight > 1)


def inner(rows: Tensor, W: Tensor) -> Tensor:
    """Inner products accumulated in float64: (a, N) with (N,) or (N, b) -> (a,) or (a, b).

    Summed in float32, the product of a unit vector of 10⁶ equal entries with itself comes out
    0.1 % wrong on the CPU: a basis that is orthogonalised with such products is not orthogonal.
    """
    if rows.dtype == torch.float64:
        return rows @ W
    at_once = ENTRIES_AT_ONCE_CPU if rows.device.type == "cpu" else ENTRIES_AT_ONCE
    total = torch.zeros(rows.shape[0], *W.shape[1:], dtype=torch.float64, device=rows.device)
    for part, w in zip(rows.split(at_once, dim=1), W.split(at_once)):
        total += part.double() @ w.double()
    return total


def length(v: Tensor) -> float:
    """Euclidean norm of a vector, accumulated in float64."""
    return float(torch.linalg.vector_norm(v, dtype=torch.float64))
