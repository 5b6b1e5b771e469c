"""How far rounding alone can move a published number, where the weights are the archive's.

Equal weights on another kind of processor, or with another version of a library, give other last
digits. Each kind of number has a bound on that, and each bound follows from one sentence:

*unit*
    Rounding errors of a sum are independent and of mean zero, so they add in squares (Higham and
    Mary 2019): a number behind which there are K additions has the relative error λ√K·u, exceeded
    with a probability below 2·exp(−λ²/2). The sums of a pass run over the N parameters; λ = 6.
    `Scale.unit` is 6√N·u, u = 2⁻⁵³ or 2⁻²⁴. It is relative to the size of what is added.
*printing*
    Tables have ten significant digits: 5·10⁻¹⁰ of the number on either side.
*loss*
    unit·(1 + L): what is added are logarithms of probabilities, or outputs, of order one.
*norm*
    unit·‖θ‖.
*gradient norm*
    unit·(‖∇L‖ + √(2‖H‖L)): the gradients of single images, which cancel in the mean, have at most
    the length √(2‖H‖L) of a loss that is nowhere negative.
*eigenvalue*
    Within a residual of each value there is an eigenvalue of H: old + new residual + unit·‖H‖.
    Without a residual in the row, the tolerance of the search is one: 2·tolerance·|λ|.
*residual*
    No result, but what the bound before rests on: at most what the search was asked for, or the
    archive's own.
*curvature, standard error*
    unit·f, f the Frobenius norm: one v'Hv of Gaussian v scatters by √2·f. Deflation along v_i takes
    λ_i(v_i'z)² off a sample; where v_i is turned by φ_i, that moves by 2|λ_i|φ_i (v_i'z)(w'z) with w
    of length one across, so by less than 8 Σ|λ_i|φ_i but in 10⁻⁴ of all draws; a Ritz value moves by
    at most 2 Σ|λ_i|φ_i (Weyl).
*difference*
    (L₊ − 2L₀ + L₋)/ε² of losses with independent errors σ has the error √6·σ/ε², and σ is the bound
    of a loss in float64. This holds across kinks, too, for the loss is continuous there: where
    rounding moves a kink by dx, the difference moves by jump·dx/ε², which is a loss error over ε².
    Along an eigenvector turned by φ: 2φ(‖H‖ + |D|) more, the gradients at ±ε differing by 2εHv. The
    exact second derivative beside it sees a kink only where a unit's input is below its rounding.
*ratio*
    The relative bounds of its parts together; exp(−r²/4) multiplies those by r²/2.
*share*
    A case changes sides if rounding moves it across the threshold. In n cases that are spread over
    an interval as wide as their own size, n·(relative bound of a case) are expected to: the
    10⁻⁶ quantile of Poisson's law, which is none where float64 is used.
*correlation, formula, setting, flag*
    Of equal numbers: equal, but for printing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from hessian_directions.reproduction import quantities
from hessian_directions.reproduction.quantities import Quantity

Row = Mapping[str, Any]

# λ of the bound: 3·10⁻⁸ of all numbers exceed it.
DEVIATIONS = 6.0
# Relative, of a number with ten significant digits; two are compared.
PRINTED = 2 * 5e-10
# Probability that more cases change sides than are allowed.
RARE = 1e-6

UNITS = {"float32": 2.0**-24, "float64": 2.0**-53}

# The search that a residual belongs to, where it is not the table's own name.
SEARCHES = {"networks": "eigenpairs", "surface_checks": "eigenpairs", "shallow_sides": "eigenpairs"}


@dataclass(frozen=True)
class Scale:
    """How large the numbers are that a subject's results are added up from.

    Attributes:
        n_parameters: N.
        precision: Of its passes; differences of losses are taken in float64.
        norm, frobenius, trace, loss, gradient: ‖H‖, f, t, L and ‖∇L‖, where a row does not state its
            own.
        turned: sin φ between the archive's eigenvectors and those found here, in ascending order of
            the eigenvalues.
        eigenvalues: Theirs.
        settings: Of its analyses, by analysis.
    """

    n_parameters: int = 1
    precision: str = "float64"
    norm: float = 0.0
    frobenius: float = 0.0
    trace: float = 0.0
    loss: float = 0.0
    gradient: float = 0.0
    turned: Sequence[float] = ()
    eigenvalues: Sequence[float] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def unit(self) -> float:
        """Relative rounding error of a sum over the parameters."""
        return DEVIATIONS * math.sqrt(self.n_parameters) * UNITS[self.precision]

    @property
    def deflation(self) -> float:
        """By how much a deflated estimate can move, the eigenvectors being turned."""
        return 8 * float(np.abs(self.eigenvalues) @ np.asarray(self.turned, dtype=float))

    def turn(self, pair: int) -> float:
        """sin φ of one pair; 0 where there is none."""
        return float(self.turned[pair]) if len(self.turned) else 0.0


def turned(archived: NDArray[Any], computed: NDArray[Any]) -> NDArray[np.float64]:
    """sin φ between the columns of two (N, k) arrays of unit vectors, whatever their signs."""
    a, b = archived.astype(float), computed.astype(float)
    across = b - a * (a * b).sum(0) / (a * a).sum(0)
    return np.minimum(1.0, np.linalg.norm(across, axis=0) / np.linalg.norm(b, axis=0))


def turned_at_most(
    eigenvalues: NDArray[np.float64], residuals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """sin φ where the archive's vectors were too large to keep: residual over gap (Davis and Kahan).

    `residuals` are the sums of the archive's and the new ones. The gap is that to the nearest of
    the known eigenvalues and, as those nearer may be unknown, at most |λ|: most lie at zero.
    """
    distances = np.abs(eigenvalues[:, None] - eigenvalues)
    np.fill_diagonal(distances, np.inf)
    gaps = np.minimum(distances.min(1, initial=np.inf), np.abs(eigenvalues))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(residuals < gaps, residuals / gaps, 1.0)


def tolerance(
    table: str, column: str, quantity: Quantity, old: Row, new: Row, scale: Scale
) -> float:
    """The largest |new − old| that rounding explains, of a column of the rows of the archive and of
    this run.
    """
    published = number(old, column)
    if not math.isfinite(published):
        return 0.0
    return PRINTED * abs(published) + _bound(table, column, quantity, old, new, scale)


def _bound(table: str, column: str, quantity: Quantity, old: Row, new: Row, scale: Scale) -> float:
    value = abs(number(old, column))
    own = _own(old, scale)
    match quantity.kind:
        case quantities.LOSS:
            turn = scale.turn(0) if _is_along(table, column) else 0.0
            distance = _finite(number(old, "radius"), _finite(number(old, "edge")))
            slope = own.gradient + own.norm * distance
            return scale.unit * (1 + value) + turn * math.sqrt(2) * distance * slope
        case quantities.NORM:
            return scale.unit * value
        case quantities.GRADIENT:
            return scale.unit * (value + math.sqrt(2 * own.norm * own.loss))
        case quantities.EIGENVALUE:
            residuals = [number(row, _residual_column(row, column)) for row in (old, new)]
            if not all(map(math.isfinite, residuals)):
                residuals = 2 * [_asked(table, scale) * value]
            return sum(residuals) + scale.unit * max(own.norm, value)
        case quantities.RESIDUAL:
            of = column.replace("_residual", "").replace("residual", "value")
            eigenvalue = abs(number(old, of))
            floor = 50 * 2 * UNITS[scale.precision] * max(own.norm, eigenvalue)
            # One that is larger than the archive's and than what was asked for disagrees.
            return max(_asked(table, scale) * eigenvalue, floor)
        case quantities.CURVATURE | quantities.ERROR:
            return _of_curvature(old, own)
        case quantities.DIFFERENCE:
            bound = _of_curvature(old, own)
            if _is_along(table, column):
                step = _step(old, column)
                pair = int(_finite(number(old, "pair")))
                bound += _noise(own, step) + 2 * scale.turn(pair) * (own.norm + value)
            return bound
        case quantities.RATIO:
            return _of_ratio(column, value, old, own)
        case quantities.SHARE:
            return _of_share(quantity, old, own)
    return 0.0


def _own(row: Row, scale: Scale) -> Scale:
    """A subject's scale, as a row's own numbers say it where it has them."""
    sizes = [abs(_finite(number(row, name))) for name in ("mean", "reference", "trace", "exact")]
    n_samples = _finite(number(row, "n_samples"))
    sizes.append(_finite(number(row, "standard_error")) * math.sqrt(n_samples))
    ends = [abs(_finite(number(row, name))) for name in ("smallest", "largest", "value")]
    return replace(
        scale,
        loss=_finite(number(row, "loss"), _finite(number(row, "loss_at_origin"), scale.loss)),
        gradient=_finite(number(row, "gradient_norm"), scale.gradient),
        norm=max(scale.norm, *ends),
        frobenius=max(scale.frobenius, *sizes, *ends),
        trace=_finite(number(row, "trace"), scale.trace),
    )


def _of_curvature(row: Row, own: Scale) -> float:
    bound = own.unit * own.frobenius + own.deflation
    # The length over which losses differ: a step, or how far a picture or a disc reaches.
    lengths = (
        number(row, name) for name in ("step", "half_width_alpha", "half_width_beta", "radius")
    )
    step = min(filter(math.isfinite, lengths), default=math.inf)
    return bound + _noise(own, step)


def _noise(own: Scale, step: float) -> float:
    """Error of a second difference, from that of the losses in float64."""
    in_float64 = replace(own, precision="float64")
    return math.sqrt(6) * in_float64.unit * (1 + own.loss) / step**2


def _of_ratio(column: str, value: float, row: Row, own: Scale) -> float:
    bound = _of_curvature(row, own)
    if column.startswith("ratio"):
        # To the reference that the row states, or to the trace, beside the rounding of a fit.
        stated = abs(number(row, "reference"))
        reference = stated if math.isfinite(stated) else abs(own.trace)
        fitted = DEVIATIONS * _finite(number(row, "rounding"))
        return (1 + value) * bound / reference + fitted if reference else 0.0
    if column == "mean_curvature":
        return bound / own.n_parameters
    if not own.frobenius:
        return 0.0
    # t/f, and functions of the spectrum over f³ or less; exp(−r²/4) by the square of r.
    r = own.trace / own.frobenius
    return bound / own.frobenius * ((6 + r**2) * value + (2 if column == "r" else 0))


def _of_share(quantity: Quantity, row: Row, own: Scale) -> float:
    n = cases(quantity, row, own)
    relative = own.unit + (own.deflation / own.frobenius if own.frobenius else 0.0)
    if n is None:
        return relative
    flips = float(scipy.stats.poisson.isf(RARE, n * min(1.0, relative)))
    # An end of an interval moves no further than twice the share.
    return flips if quantity.counted else 2 * flips / n


def cases(quantity: Quantity, row: Row, scale: Scale) -> float | None:
    """The number of cases that a share is one of; None where it is not known."""
    analysis, _, setting = quantity.of.rpartition(".")
    if analysis:
        return scale.settings.get(analysis, {}).get(setting)
    n = number(row, quantity.of)
    return n if math.isfinite(n) and n > 0 else None


def _is_along(table: str, column: str) -> bool:
    """Whether a number was measured along the eigenvectors."""
    tables = {"surface_checks", "shallow_sides", "rendered_curvatures"}
    return table in tables or column.startswith("hessian_")


def _step(row: Row, column: str) -> float:
    """The step of a difference along an eigenvector: surface_<step>, or nearest and edge."""
    kind, _, step = column.partition("_")
    return float(step) if kind == "surface" else _finite(number(row, kind), 1.0)


def _residual_column(row: Row, column: str) -> str:
    own = f"{column.removesuffix('_exact_curvature')}_residual"
    return own if own in row else "residual"


def _asked(table: str, scale: Scale) -> float:
    """The residual that a search was asked for, in units of |λ|."""
    return float(scale.settings.get(SEARCHES.get(table, table), {}).get("tolerance", 0.0))


def number(row: Row, column: str) -> float:
    """A number of a row; NaN where there is none."""
    try:
        return float(row.get(column, math.nan))
    except (TypeError, ValueError):
        return math.nan


def _finite(value: float, otherwise: float = 0.0) -> float:
    return value if math.isfinite(value) else otherwise
