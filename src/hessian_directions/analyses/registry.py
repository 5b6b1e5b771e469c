"""The analyses: one module each, whose name is its key, its rule and its artifact.

A module of this package that is listed here declares

    Settings                  its settings, with defaults (`analyses.settings`);
    READS                     what it reads beside the checkpoint: names of other analyses,
                              "eigenvectors" or "snapshots";
    run(problem, settings, job) -> Dataset
                              or (settings, job) for one that studies no network;
    parts(settings)           the names of its artifacts, where it makes several;
    gather(shards, settings, job) -> Dataset, GATHER_READS
                              where it is computed in shards: `settings.n_shards` of them;
    TENSORS                   the name of a file of large arrays that `run` returns beside the
                              dataset: (dataset, arrays);
    OF = "profile"            where it studies no network;
    passes(settings)          about how many passes over the images it takes, by kind: value,
                              gradient, product, derivative (second directional).

From that follow the keys of a configuration, the rules, their files and parameters, the run
records, and what the documentation lists.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
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
    "lines",
    "localisation",
    "trace_estimators",
    "step_sizes",
    "lowest_points",
    "image_counts",
    "trajectory",
    "passes",
)
OF_PROFILES = ("saddles", "saddle_traces", "population")

# What is computed of a network that lists nothing else.
STANDARD = OF_NETWORKS[: OF_NETWORKS.index("trace_estimators")]


@dataclass(frozen=True)
class Analysis:
    """One analysis, as its module declares it."""

    name: str

    @property
    def file(self) -> str:
        """The source file of its module, below the package's root folder."""
        return f"hessian_directions/analyses/{self.name}.py"

    @cached_property
    def module(self) -> ModuleType:
        return importlib.import_module(f"hessian_directions.analyses.{self.name}")

    @property
    def settings(self) -> type[Settings]:
        return self.module.Settings

    @property
    def of_network(self) -> bool:
        return getattr(self.module, "OF", "network") == "network"

    @property
    def reads(self) -> tuple[str, ...]:
        return getattr(self.module, "READS", ())

    @property
    def gather_reads(self) -> tuple[str, ...]:
        return getattr(self.module, "GATHER_READS", ())

    @property
    def tensors(self) -> str | None:
        return getattr(self.module, "TENSORS", None)

    @property
    def has_data(self) -> bool:
        """Whether one that studies no network reads data, and computes where networks do."""
        return not self.of_network and "data" in self.settings.model_fields

    @property
    def is_sharded(self) -> bool:
        return hasattr(self.module, "gather")

    @property
    def has_parts(self) -> bool:
        return hasattr(self.module, "parts")

    @property
    def has_dataset(self) -> bool:
        """Whether it makes an artifact; times are in the run record alone."""
        return not getattr(self.module, "RECORD_ALONE", False)

    def parts(self, settings: dict[str, Any]) -> Sequence[str]:
        """The names of its artifacts under these settings; one without a name where it has one."""
        if not self.has_parts:
            return ("",)
        return self.module.parts(self.settings.model_validate(settings))

    def passes(self, settings: dict[str, Any]) -> dict[str, int]:
        """About how many passes over the images it takes, by kind; none where it does not say."""
        if not hasattr(self.module, "passes"):
            return {}
        return self.module.passes(self.settings.model_validate(settings))

    def stage_settings(self, settings: dict[str, Any], stage: str) -> dict[str, Any]:
        """Those of the settings that a stage depends on: "run" or "gather"."""
        return {
            key: value
            for key, value in settings.items()
            if stage_of(self.settings, key) in (("",) if stage == "run" else ("", "gather"))
        }


def analysis(name: str) -> Analysis:
    """The analysis of that name."""
    return _ANALYSES[name]


_ANALYSES = {name: Analysis(name) for name in (*OF_NETWORKS, *OF_PROFILES)}
