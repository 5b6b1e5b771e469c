"""Directly sampled projected Hessians of a network, and how visible its saddle is in random slices."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from hessian_directions import seeds, trace, visibility
from hessian_directions.directions import gaussian, orthonormalise, rademacher
from hessian_directions.objective import Objective
from hessian_directions.principal_curvatures import critical_dimension
from hessian_directions.studies.announcing import Announce, counted


def study(
    objective: Objective,
    eigenpairs: xr.Dataset,
    vectors: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    announce: Announce,
) -> xr.Dataset:
    """Samples of M = [η δ]'H[η δ], and the visibility of the saddle in three ways.

    Q spans the eigenvectors found and the columns of HS, S random (a sketch, as in Hutch++), and P = I − QQ'. Then
    tr H = tr(Q'HQ) + tr(PHP): the reference trace is the first term and Rademacher samples of the second, or exact
    (N second directional derivatives). Along a sampled direction v the `deflated_curvature` tr(Q'HQ) + v'PHPv has
    the same mean as v'Hv and a far smaller variance: what it leaves out has a mean that is known.

    The spectrum that visibility is drawn from is that of the converged eigenpairs, each once, and of the rest by its
    trace t_b and Frobenius norm f_b.
    """
    H = objective.hessian()
    Q = dominant_subspace(H, vectors, settings["n_sketch"], seeds.generator(seed, "sketch"))
    HQ = H @ Q
    inner = Q.double().T @ HQ.double()
    known_trace = float(inner.trace())
    matrices, deflated = [], []
    for V, HV in visibility.sample_products(
        H,
        settings["n_samples"],
        seeds.generator(seed, "planes"),
        progress=counted(announce, "planes"),
    ):
        matrices.append(visibility.projections(V, HV))
        overlap = Q.T @ V
        rest_of_V, rest_of_HV = V - Q @ overlap, HV - HQ @ overlap
        deflated.append(known_trace + (rest_of_V.double() * rest_of_HV.double()).sum(0))
    rest = deflated_rest(H, Q, settings["n_reference"], seeds.generator(seed, "reference"))
    values = eigenpairs["value"].values
    if settings["exact_trace"]:
        reference, reference_error = trace.exact(objective).mean, 0.0
    else:
        reference, reference_error = known_trace + rest["trace"], rest["trace_standard_error"]
    # ‖H‖² = ‖Q'HQ‖² + 2‖PHQ‖² + ‖PHP‖² and ‖HQ‖² = ‖Q'HQ‖² + ‖PHQ‖²
    known_square = 2 * HQ.double().square().sum() - inner.square().sum()
    frobenius = float(np.sqrt(float(known_square) + rest["frobenius_norm"] ** 2))
    rest_trace = reference - values.sum()
    rest_frobenius = float(np.sqrt(max(frobenius**2 - np.square(values).sum(), 0.0)))
    from_spectrum = visibility.sample_from_spectrum(
        values,
        rest_trace,
        rest_frobenius,
        settings["n_spectrum_samples"],
        seeds.generator(seed, "spectrum"),
    )
    formula = visibility.formula(values, rest_trace, rest_frobenius)
    scalars: dict[str, float] = {
        "trace": float(reference),
        "trace_standard_error": float(reference_error),
        "frobenius_norm": frobenius,
        "frobenius_standard_error": rest["frobenius_standard_error"]
        * rest["frobenius_norm"]
        / frobenius,
        "r": float(reference) / frobenius,
        "visibility_formula": formula.probability,
        "third_moment": formula.third_moment,
        "tail": formula.tail,
        "critical_dimension": critical_dimension(
            *_discrete_spectrum(values, reference, rest_frobenius, H.shape[0])
        ),
    }
    projected = np.concatenate(matrices)
    for name, sampled in (("direct", projected), ("spectrum", from_spectrum)):
        share = visibility.share_of_saddles(sampled)
        scalars[f"visibility_{name}"] = share.probability
        scalars[f"visibility_{name}_low"] = share.low
        scalars[f"visibility_{name}_high"] = share.high
    return xr.Dataset(
        {
            "projected_hessian": (("sample", "row", "column"), projected),
            "deflated_curvature": (
                ("sample", "column"),
                torch.cat(deflated).reshape(-1, 2).cpu().numpy(),
            ),
        }
        | {name: ((), value) for name, value in scalars.items()},
        attrs={"reference_kind": "exact" if settings["exact_trace"] else "deflated Rademacher"},
    )


def dominant_subspace(H: Any, vectors: Tensor, n_sketch: int, generator: torch.Generator) -> Tensor:
    """Orthonormal basis (N, k) of the span of the vectors and of HS, S with n_sketch Gaussian columns."""
    n = H.shape[0]
    n_sketch = min(n_sketch, n - vectors.shape[1])
    sketch = [H @ gaussian(n, n_sketch, generator, H.dtype, H.device)] if n_sketch > 0 else []
    # Householder QR: the basis is orthonormal even where HS has not full rank.
    return torch.linalg.qr(torch.cat([vectors, *sketch], dim=1).double())[0].to(H.dtype)


def deflated_rest(
    H: Any, vectors: Tensor, n_samples: int, generator: torch.Generator, chunk: int = 16
) -> dict[str, float]:
    """Trace and Frobenius norm of PHP, P the projection off the vectors, with standard errors.

    One product serves both: v'PHPv has the mean tr(PHP), ‖PHPv‖² the mean ‖PHP‖_F², for Rademacher v.
    """
    Q = orthonormalise(vectors.double()).to(H.dtype)
    traces, squares = [], []
    for start in range(0, n_samples, chunk):
        k = min(chunk, n_samples - start)
        V = rademacher(H.shape[0], k, generator, H.dtype, H.device)
        V = V - Q @ (Q.T @ V)
        HV = H @ V
        HV = HV - Q @ (Q.T @ HV)
        traces.append((V.double() * HV.double()).sum(0))
        squares.append(HV.double().square().sum(0))
    trace_samples, square_samples = torch.cat(traces), torch.cat(squares)
    norm = float(square_samples.mean().sqrt())
    error = float(square_samples.std() / n_samples**0.5)
    return {
        "trace": float(trace_samples.mean()),
        "trace_standard_error": float(trace_samples.std() / n_samples**0.5),
        "frobenius_norm": norm,
        # d√x = dx/(2√x)
        "frobenius_standard_error": error / (2 * norm) if norm else 0.0,
    }


def _discrete_spectrum(
    values: np.ndarray, trace: float, rest_frobenius: float, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The found eigenvalues, and two values that share the rest's count, trace and Frobenius norm."""
    count = n - len(values)
    if count <= 0:
        return values, np.ones(len(values))
    mean = (trace - values.sum()) / count
    spread = np.sqrt(max(rest_frobenius**2 / count - mean**2, 0.0))
    eigenvalues = np.concatenate([values, [mean - spread, mean + spread]])
    return eigenvalues, np.concatenate([np.ones(len(values)), [count / 2, count / 2]])
