"""Curvature of loss functions: extreme eigenpairs, traces, spectra, slices along Hessian directions.

    import hessian_directions as hd

    report = hd.analyze(model, loss, loader)
    report.save("mine.html")

or each part by itself, of an objective:

    objective = hd.Objective(model, loss, loader)
    pairs = hd.extreme_eigenpairs(objective)
    trace = hd.trace.directional(objective)
    surface = hd.slices.surface(objective)

A name is loaded when it is first used: the import itself loads nothing, PyTorch least of all.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessian_directions.errors import HessianDirectionsError as HessianDirectionsError
    from hessian_directions.geometry import directions as directions
    from hessian_directions.geometry import flatness as flatness
    from hessian_directions.geometry import localisation as localisation
    from hessian_directions.geometry import slices as slices
    from hessian_directions.geometry import visibility as visibility
    from hessian_directions.objectives.losses import ModelLoss as ModelLoss
    from hessian_directions.objectives.objective import Objective as Objective
    from hessian_directions.overview import PARTS as PARTS
    from hessian_directions.overview import Report as Report
    from hessian_directions.overview import analyze as analyze
    from hessian_directions.spectral.eigenpairs import Eigenpairs as Eigenpairs
    from hessian_directions.spectral.eigenpairs import extreme_eigenpairs as extreme_eigenpairs
    from hessian_directions.spectral.spectrum import SpectralDensity as SpectralDensity
    from hessian_directions.spectral.spectrum import spectral_density as spectral_density
    from hessian_directions.traces import estimators as trace  # noqa: F401
    from hessian_directions.traces.estimators import Estimate as Estimate

__version__ = "0.1.0"

# Public name → module:name, where the name is not that of the whole module.
_HOMES = {
    "PARTS": "overview:PARTS",
    "Eigenpairs": "spectral.eigenpairs:Eigenpairs",
    "Estimate": "traces.estimators:Estimate",
    "HessianDirectionsError": "errors:HessianDirectionsError",
    "ModelLoss": "objectives.losses:ModelLoss",
    "Objective": "objectives.objective:Objective",
    "Report": "overview:Report",
    "SpectralDensity": "spectral.spectrum:SpectralDensity",
    "analyze": "overview:analyze",
    "directions": "geometry.directions:",
    "extreme_eigenpairs": "spectral.eigenpairs:extreme_eigenpairs",
    "flatness": "geometry.flatness:",
    "localisation": "geometry.localisation:",
    "slices": "geometry.slices:",
    "spectral_density": "spectral.spectrum:spectral_density",
    "trace": "traces.estimators:",
    "visibility": "geometry.visibility:",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = resolve_name(f"{__name__}.{_HOMES[name]}")  # asked for once
    return value


def __dir__() -> list[str]:
    return __all__
