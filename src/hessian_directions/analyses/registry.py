"""The analyses: one module each, whose name is its key, its rule and its artifact.

A module of this package that is listed here declares

    Settings                  its settings, with defaults (`analyses.settings`);
    READS                     what it reads beside the checkpoint: names of other analyses,
                              "eigenvectors" or "snapshots";
    run(problem, settings, job) -> Dataset
                              or (settings, job) for one of `OF_PROFILES`, which studies no network;
    parts(settings)           the names of its artifacts, where it makes several;
    gather(shards, settings, job) -> Dataset, GATHER_READS
                              where it is computed in shards: `settings.n_shards` of them; null
                              stands for none, where `run` gathers what it made itself;
    TENSORS                   the name of a file of large arrays that `run` returns beside the
                              dataset: (dataset, arrays);
    other_networks(settings)  the networks of the profile whose checkpoints it reads, too; they have
                              the own one's data, loss and model;
    TRAINS = True             where it optimises weights of its own: that amplifies rounding, so its
                              numbers are a training's and not recomputed from the archive;
    passes(settings)          about how many passes one of its jobs takes, by kind (below);
    vectors(settings)         about how many vectors of N numbers a job holds beside its passes;
    n_images(settings, part)  the images of its passes, where they are neither those of the
                              network's curvature nor a number `settings.n_images`;
    takes(settings, stage)    about the seconds and bytes of a job ("run" or "gather") that no
                              passes tell of;
    typical(settings)         where it trains networks of its own, the model and the training of
                              one whose passes tell of all.

Kinds of passes are value, gradient, product and derivative (second directional); in the plural
(values, products, derivatives) each is one of many that are made together. "precise_" before a kind
is one in float64 whatever the profile's precision, "test " before it one over the test images,
"all " over all images of the data. A "diagonal" are the N derivatives of an
exact trace, an "epoch" all steps of one, a "record" one of the history.

From that follow the keys of a configuration, the rules, their files and parameters, the run
records, and what the documentation lists.
"""

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from hessian_directions.settings import Settings, stage_of

# In the order in which documents list them.
OF_NETWORKS = (
    "scores",
    "eigenpairs",
    "trace",
    "visibility",
    "spectrum",
    "slices",
    "turning",
    "lines",
    "localisation",
    "trace_estimators",
    "step_sizes",
    "kinks",
    "apparent_curvature",
    "lowest_losses",
    "gauss_newton",
    "image_counts",
    "interpolation",
    "trajectory",
    "passes",
)
OF_PROFILES = ("saddles", "saddle_traces", "population", "critical_points")

# What is computed of a network that lists nothing else.
STANDARD = OF_NETWORKS[: OF_NETWORKS.index("trace_estimators")]


class Analysis:
    """One analysis, as its module declares it.

    Attributes:
        file: The source file of its module, below the package's root folder.
        has_dataset: Whether it makes an artifact; times are in the run record alone.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.file = f"hessian_directions/analyses/{name}.py"
        self.module = module = importlib.import_module(f"hessian_directions.analyses.{name}")
        self.settings: type[Settings] = module.Settings
        self.reads: tuple[str, ...] = getattr(module, "READS", ())
        self.gather_reads: tuple[str, ...] = getattr(module, "GATHER_READS", ())
        self.tensors: str | None = getattr(module, "TENSORS", None)
        self.trains: bool = getattr(module, "TRAINS", False)
        self.is_sharded = hasattr(module, "gather")
        self.has_parts = hasattr(module, "parts")
        self.has_dataset = not getattr(module, "RECORD_ALONE", False)

    @property
    def has_data(self) -> bool:
        """Whether one that studies no network reads data, and computes where networks do."""
        return self.name in OF_PROFILES and "data" in self.settings.model_fields

    def n_shards(self, settings: dict[str, Any]) -> int | None:
        """The shards that it is computed in under these settings; None where in none."""
        return settings["n_shards"] if self.is_sharded else None

    def parts(self, settings: dict[str, Any]) -> Sequence[str]:
        return self._said("parts", ("",), settings)

    def other_networks(self, settings: dict[str, Any]) -> list[str]:
        return self._said("other_networks", [], settings)

    def passes(self, settings: dict[str, Any]) -> dict[str, float]:
        return self._said("passes", {}, settings)

    def vectors(self, settings: dict[str, Any]) -> float:
        return self._said("vectors", 0, settings)

    def n_images(self, settings: dict[str, Any], part: str) -> int | None:
        own = settings.get("n_images")
        return self._said("n_images", own if isinstance(own, int) else None, settings, part)

    def takes(self, settings: dict[str, Any], stage: str) -> tuple[float, float]:
        return self._said("takes", (0.0, 0.0), settings, stage)

    def typical(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The network whose passes tell of an analysis that trains its own."""
        own = {key: settings[key] for key in ("data", "loss", "n_images")}
        return own | self._said("typical", {}, settings)

    def _said(self, name: str, default: Any, settings: dict[str, Any], *arguments: str) -> Any:
        if not hasattr(self.module, name):
            return default
        return getattr(self.module, name)(self.settings.model_validate(settings), *arguments)

    def stage_settings(self, settings: dict[str, Any], stage: str) -> dict[str, Any]:
        """Those of the settings that a stage depends on: "run" or "gather"."""
        return {
            key: value
            for key, value in settings.items()
            if stage_of(self.settings, key) in (("",) if stage == "run" else ("", "gather"))
        }


@cache
def analysis(name: str) -> Analysis:
    """The analysis of that name."""
    return Analysis(name)
