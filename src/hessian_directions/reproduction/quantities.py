"""What the numbers of the published tables are: the kind of each column.

A kind decides how closely a number must be met again (`rounding`) and on which scale its values from
other trainings are symmetric (`replicates`). It follows from what a column is, and is stated before
anything is compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hessian_directions.errors import ConfigurationError

# Tables of what a run took.
TIMES = {"cost", "cost_scaling", "failures"}

# Tables about all of the population's networks, and what they are about; the others name a network
# or a saddle in every row.
ABOUT_POPULATION = {"correlations", "invariance", "levels", "population"}
POPULATION = "the population"

# Follows from the configuration alone.
SETTING = "setting"
# True or false.
FLAG = "flag"
# A mean loss.
LOSS = "loss"
# A length in parameter space.
NORM = "norm"
GRADIENT = "gradient norm"
# Of the Hessian, or the curvature along its vector.
EIGENVALUE = "eigenvalue"
# ‖Hv − λv‖: small or not, no result.
RESIDUAL = "residual"
# Curvature over many directions: a mean of v'Hv, a trace, a Frobenius norm.
CURVATURE = "curvature"
# Standard error of one.
ERROR = "standard error"
# A quotient, or another function without a unit, of those.
RATIO = "ratio"
# Second difference of the loss at a finite step, and what it differs from a curvature by.
DIFFERENCE = "difference"
# Counted among so many, or an end of the interval of such a share.
SHARE = "share"
# A rank correlation, or an end of its interval.
CORRELATION = "correlation"
# Of numbers in the configuration, by a formula or by counting.
FORMULA = "formula"
# Where something lies, what it took: another point may be as low, another step may be needed.
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Quantity:
    """A column of a table.

    Attributes
    ----------
    kind
        One of the names above.
    of
        A share's number of cases: a column of the same row, or `analysis.setting`; empty where it
        is not known.
    counted
        Whether a share is published as the number of cases.
    """

    kind: str
    of: str = ""
    counted: bool = False


# `table.column` by pattern; the first that fits decides.
QUANTITIES: list[tuple[str, Quantity]] = [
    # Another search may find other points; what they say is compared by the verdicts.
    ("critical_points.*", Quantity(NOT_COMPARED)),
    ("*.seconds", Quantity(NOT_COMPARED)),
    ("*.noise", Quantity(NOT_COMPARED)),
    ("*.rounding", Quantity(NOT_COMPARED)),
    ("*.departure_radius*", Quantity(NOT_COMPARED)),
    ("*.nearest_kink", Quantity(NOT_COMPARED)),
    ("*.barrier_x", Quantity(NOT_COMPARED)),
    ("*.n_products", Quantity(NOT_COMPARED)),
    ("*.n_check_products", Quantity(NOT_COMPARED)),
    ("*.passes", Quantity(NOT_COMPARED)),
    ("*.training_epochs", Quantity(NOT_COMPARED)),
    ("*.bends_down_to", Quantity(NOT_COMPARED)),
    ("*.lowest_distance", Quantity(NOT_COMPARED)),
    ("*.planes_far", Quantity(NOT_COMPARED)),
    ("shallow_sides.nearest", Quantity(NOT_COMPARED)),
    ("shallow_sides.edge", Quantity(NOT_COMPARED)),
    ("*.converged", Quantity(FLAG)),
    ("*.below_noise", Quantity(FLAG)),
    ("levels.n_reached", Quantity(SHARE, "n_members", counted=True)),
    ("population.n_reached", Quantity(SHARE, "n_members", counted=True)),
    ("*.planes_as_low", Quantity(SHARE, "n_planes", counted=True)),
    ("*.n_*", Quantity(SETTING)),
    ("*.training_images", Quantity(SETTING)),
    ("*.sharpness", Quantity(SETTING)),
    ("*.radius", Quantity(SETTING)),
    ("*.pair", Quantity(SETTING)),
    ("levels.level", Quantity(SETTING)),
    ("step_sizes.step", Quantity(SETTING)),
    ("traces.step", Quantity(NORM)),
    ("rendered_curvatures.region", Quantity(SETTING)),
    ("rendered_curvatures.half_width*", Quantity(NORM)),
    ("rendered_curvatures.saddle*", Quantity(FLAG)),
    ("rendered_curvatures.*", Quantity(DIFFERENCE)),
    ("apparent_curvature.saddles*", Quantity(SHARE, "n_finite")),
    ("apparent_curvature.ratio*", Quantity(RATIO)),
    ("departure_radii.*_radius", Quantity(SETTING)),
    ("departure_radii.*_standard_error", Quantity(ERROR)),
    ("departure_radii.*", Quantity(RATIO)),
    ("lowest_losses.random_slope", Quantity(GRADIENT)),
    ("lowest_losses.*_ties", Quantity(SHARE, "n_planes", counted=True)),
    ("lowest_losses.as_low*", Quantity(SHARE, "n_planes")),
    ("kinks.step", Quantity(SETTING)),
    ("kinks.n_kinks", Quantity(SHARE)),
    ("kinks.negative_share", Quantity(SHARE)),
    ("kinks.exact", Quantity(CURVATURE)),
    ("kinks.*_ratio", Quantity(RATIO)),
    ("kinks.correlation", Quantity(RATIO)),
    ("kinks.slope", Quantity(RATIO)),
    ("kinks.rest_standard_error", Quantity(ERROR)),
    ("kinks.*", Quantity(DIFFERENCE)),
    ("architectures.visibility*", Quantity(SHARE, "visibility.n_planes")),
    ("architectures.*_share", Quantity(RATIO)),
    ("gauss_newton.*_share", Quantity(RATIO)),
    ("gauss_newton.*_residual_*", Quantity(RESIDUAL)),
    ("gauss_newton.*standard_error*", Quantity(ERROR)),
    ("gauss_newton.frobenius_norm_*", Quantity(CURVATURE)),
    ("barriers.distance", Quantity(NORM)),
    ("barriers.accuracy*", Quantity(SHARE)),
    ("barriers.barrier", Quantity(DIFFERENCE)),
    ("invariance.advantage*", Quantity(CORRELATION)),
    ("invariance.ratio*", Quantity(RATIO)),
    ("invariance.*", Quantity(FLAG)),
    ("correlations.*", Quantity(CORRELATION)),
    ("levels.gap_*", Quantity(CORRELATION)),
    ("dimensions.*", Quantity(FORMULA)),
    ("saddles.trace", Quantity(FORMULA)),
    ("saddles.r", Quantity(FORMULA)),
    ("saddles.*_theory", Quantity(FORMULA)),
    ("saddles.visibility_formula", Quantity(FORMULA)),
    ("saddles.visibility_corrected", Quantity(FORMULA)),
    ("saddles.visibility*", Quantity(SHARE, "saddles.n_visibility_samples")),
    ("saddles.*_standard_error", Quantity(ERROR)),
    ("saddles.smallest", Quantity(CURVATURE)),
    ("saddles.largest", Quantity(CURVATURE)),
    ("visibility.visibility_direct*", Quantity(SHARE, "n_planes")),
    ("visibility.visibility_spectrum*", Quantity(SHARE, "visibility.n_spectrum_samples")),
    ("visibility.lowest_twentieth*", Quantity(SHARE, "n_planes")),
    ("visibility.visibility_formula", Quantity(RATIO)),
    ("visibility.visibility_corrected", Quantity(RATIO)),
    ("visibility.condition", Quantity(RATIO)),
    ("visibility.dimensions_needed", Quantity(RATIO)),
    ("visibility.third_moment", Quantity(RATIO)),
    ("visibility.tail", Quantity(RATIO)),
    ("population.gap_*", Quantity(DIFFERENCE)),
    ("population.*_accuracy_*", Quantity(SHARE)),
    ("*.*_accuracy", Quantity(SHARE, "n_images")),
    ("*.*_residual", Quantity(RESIDUAL)),
    ("*.residual", Quantity(RESIDUAL)),
    ("*.*_standard_error", Quantity(ERROR)),
    ("*.standard_error", Quantity(ERROR)),
    ("*.theta_norm", Quantity(NORM)),
    ("*.gradient_norm", Quantity(GRADIENT)),
    ("*.surface_*", Quantity(DIFFERENCE)),
    ("*.*difference", Quantity(DIFFERENCE)),
    ("*.gap", Quantity(DIFFERENCE)),
    ("*.exact_curvature", Quantity(EIGENVALUE)),
    ("*.*_exact_curvature", Quantity(EIGENVALUE)),
    ("shallow_sides.curvature", Quantity(EIGENVALUE)),
    ("surface_checks.value", Quantity(EIGENVALUE)),
    ("*.mean_curvature", Quantity(RATIO)),
    ("*.ratio", Quantity(RATIO)),
    ("*.r", Quantity(RATIO)),
    ("*.*loss*", Quantity(LOSS)),
    ("*.*smallest*", Quantity(EIGENVALUE)),
    ("*.*largest*", Quantity(EIGENVALUE)),
    ("*.*trace*", Quantity(CURVATURE)),
    ("*.frobenius_norm", Quantity(CURVATURE)),
    ("softplus.*", Quantity(CURVATURE)),
    ("traces.mean", Quantity(CURVATURE)),
    ("traces.reference", Quantity(CURVATURE)),
    ("step_sizes.exact", Quantity(CURVATURE)),
]


def quantity(table: str, column: str) -> Quantity:
    """What a column holds; ConfigurationError where nothing is said of it."""
    name = f"{table}.{column}"
    found = next(_matching(name), None)
    if found is None:
        raise ConfigurationError(
            f"{name} has no kind: say in reproduction/quantities.py how closely it must be met"
        )
    return found


def _matching(name: str) -> Iterator[Quantity]:
    return (kind for pattern, kind in QUANTITIES if fnmatchcase(name, pattern))
