"""What the numbers of the published tables are: the kind of each column.

A kind decides how closely a number must be met again (`rounding`) and on which scale its values from
other trainings are symmetric (`replicates`). It follows from what a column is, and is stated before
anything is compared.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from hessian_directions.errors import ConfigurationError

# Tables of what a run took.
TIMES = {"cost", "cost_scaling", "failures"}

# Tables about all of the population's networks, and what they are about; the others name a network
# or a saddle in every row.
ABOUT_POPULATION = {"correlations", "invariance", "levels", "population"}
POPULATION = "the population"

SETTING = "setting"  # follows from the configuration alone
FLAG = "flag"  # true or false
LOSS = "loss"  # a mean loss
NORM = "norm"  # a length in parameter space
GRADIENT = "gradient norm"
EIGENVALUE = "eigenvalue"  # of the Hessian, or the curvature along its vector
RESIDUAL = "residual"  # ‖Hv − λv‖: small or not, no result
CURVATURE = "curvature"  # over many directions: a mean of v'Hv, a trace, a Frobenius norm
ERROR = "standard error"  # of a curvature
RATIO = "ratio"  # a quotient, or another function without a unit, of those
# Second difference of the loss at a finite step, and what it differs from a curvature by.
DIFFERENCE = "difference"
SHARE = "share"  # counted among so many, or an end of the interval of such a share
CORRELATION = "correlation"  # a rank correlation, or an end of its interval
FORMULA = "formula"  # of numbers in the configuration, by a formula or by counting
# Where something lies, what it took: another point may be as low, another step may be needed.
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Quantity:
    """A column of a table.

    Attributes:
        kind: One of the names above.
        of: A share's number of cases: a column of the same row, or `analysis.setting`; empty where
            it is not known.
        counted: Whether a share is published as the number of cases.
    """

    kind: str
    of: str = ""
    counted: bool = False


# Patterns of `table.column`; the first that fits decides.
QUANTITIES: list[tuple[str, Quantity]] = [
    # Another search may find other points; what they say is compared by the verdicts.
    (
        "critical_points.* *.seconds *.noise *.rounding *.departure_radius* *.nearest_kink "
        "*.barrier_x *.n_products *.n_check_products *.passes *.training_epochs "
        "*.bends_down_to *.lowest_distance *.planes_far shallow_sides.nearest "
        "shallow_sides.edge traces.step",
        Quantity(NOT_COMPARED),
    ),
    ("*.converged *.below_noise", Quantity(FLAG)),
    ("levels.n_reached population.n_reached", Quantity(SHARE, "n_members", counted=True)),
    ("*.planes_as_low", Quantity(SHARE, "n_planes", counted=True)),
    ("apparent_curvature.n_finite", Quantity(SHARE, "apparent_curvature.n_planes", counted=True)),
    ("kinks.n_kinks kinks.negative_share", Quantity(SHARE)),
    (
        "*.n_* *.training_images *.sharpness *.radius *.pair levels.level step_sizes.step",
        Quantity(SETTING),
    ),
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
    ("kinks.exact", Quantity(CURVATURE)),
    ("kinks.*_ratio kinks.correlation kinks.slope", Quantity(RATIO)),
    ("kinks.rest_standard_error", Quantity(ERROR)),
    ("kinks.*", Quantity(DIFFERENCE)),
    ("architectures.visibility*", Quantity(SHARE, "visibility.n_planes")),
    ("architectures.*_share gauss_newton.*_share", Quantity(RATIO)),
    ("gauss_newton.*_residual_*", Quantity(RESIDUAL)),
    ("gauss_newton.*standard_error*", Quantity(ERROR)),
    ("gauss_newton.frobenius_norm_*", Quantity(CURVATURE)),
    ("barriers.distance", Quantity(NORM)),
    ("barriers.accuracy*", Quantity(SHARE)),
    ("barriers.barrier", Quantity(DIFFERENCE)),
    ("invariance.advantage*", Quantity(CORRELATION)),
    ("invariance.ratio*", Quantity(RATIO)),
    ("invariance.*", Quantity(FLAG)),
    ("correlations.* levels.gap_*", Quantity(CORRELATION)),
    (
        "dimensions.* saddles.trace saddles.r saddles.*_theory saddles.visibility_formula "
        "saddles.visibility_corrected",
        Quantity(FORMULA),
    ),
    ("saddles.visibility*", Quantity(SHARE, "saddles.n_visibility_samples")),
    ("saddles.*_standard_error", Quantity(ERROR)),
    ("saddles.smallest saddles.largest", Quantity(CURVATURE)),
    ("visibility.visibility_direct*", Quantity(SHARE, "n_planes")),
    ("visibility.visibility_spectrum*", Quantity(SHARE, "visibility.n_spectrum_samples")),
    ("visibility.lowest_twentieth*", Quantity(SHARE, "n_planes")),
    (
        "visibility.visibility_formula visibility.visibility_corrected visibility.condition "
        "visibility.dimensions_needed visibility.third_moment visibility.tail",
        Quantity(RATIO),
    ),
    ("population.gap_*", Quantity(DIFFERENCE)),
    ("population.*_accuracy_*", Quantity(SHARE)),
    ("*.*_accuracy", Quantity(SHARE, "n_images")),
    ("*.*_residual *.residual", Quantity(RESIDUAL)),
    ("*.*_standard_error *.standard_error", Quantity(ERROR)),
    ("*.theta_norm", Quantity(NORM)),
    ("*.gradient_norm", Quantity(GRADIENT)),
    ("*.surface_* *.*difference *.gap", Quantity(DIFFERENCE)),
    (
        "*.exact_curvature *.*_exact_curvature shallow_sides.curvature surface_checks.value",
        Quantity(EIGENVALUE),
    ),
    ("*.mean_curvature *.ratio *.r", Quantity(RATIO)),
    ("*.*loss*", Quantity(LOSS)),
    ("*.*smallest* *.*largest*", Quantity(EIGENVALUE)),
    (
        "*.*trace* *.frobenius_norm softplus.* traces.mean traces.reference step_sizes.exact",
        Quantity(CURVATURE),
    ),
]


def quantity(table: str, column: str) -> Quantity:
    """What a column holds; ConfigurationError where nothing is said of it."""
    name = f"{table}.{column}"
    for patterns, found in QUANTITIES:
        if any(fnmatchcase(name, pattern) for pattern in patterns.split()):
            return found
    raise ConfigurationError(
        f"{name} has no kind: say in reproduction/quantities.py how closely it must be met"
    )
