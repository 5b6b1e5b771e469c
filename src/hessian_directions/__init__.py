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

from importlib import import_module
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
    from hessian_directions.traces import estimators as trace
    from hessian_directions.traces.estimators import Estimate as Estimate

__version__ = "0.1.0"

# Public name → module, and the name in it where the name is not that of the whole module.
_HOMES = {
    "PARTS": ("overview", "PARTS"),
    "Eigenpairs": ("spectral.eigenpairs", "Eigenpairs"),
    "Estimate": ("traces.estimators", "Estimate"),
    "HessianDirectionsError": ("errors", "HessianDirectionsError"),
    "ModelLoss": ("objectives.losses", "ModelLoss"),
    "Objective": ("objectives.objective", "Objective"),
    "Report": ("overview", "Report"),
    "SpectralDensity": ("spectral.spectrum", "SpectralDensity"),
    "analyze": ("overview", "analyze"),
    "directions": ("geometry.directions", None),
    "extreme_eigenpairs": ("spectral.eigenpairs", "extreme_eigenpairs"),
    "flatness": ("geometry.flatness", None),
    "localisation": ("geometry.localisation", None),
    "slices": ("geometry.slices", None),
    "spectral_density": ("spectral.spectrum", "spectral_density"),
    "trace": ("traces.estimators", None),
    "visibility": ("geometry.visibility", None),
}

__all__ = [
    "PARTS",
    "Eigenpairs",
    "Estimate",
    "HessianDirectionsError",
    "ModelLoss",
    "Objective",
    "Report",
    "SpectralDensity",
    "__version__",
    "analyze",
    "directions",
    "extreme_eigenpairs",
    "flatness",
    "localisation",
    "slices",
    "spectral_density",
    "trace",
    "visibility",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    loaded: Any = import_module(f"{__name__}.{module}")
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
