"""Every key of a configuration with its default, its unit and a sentence: `make config`.

`python -m hessian_directions.reproduction.reference`.
"""

from collections.abc import Iterator

import yaml

from hessian_directions.analyses import registry
from hessian_directions.learning.settings import Checkpoint, Expected, TrainingSettings
from hessian_directions.reproduction import configuration
from hessian_directions.settings import Model, Settings


def reference() -> str:
    """The whole reference, a line for each key."""
    from hessian_directions.data.registry import KINDS, settings_of

    lines = ["A profile", *_keys(configuration.Profile)]
    lines += ["", "networks.<name>", *_keys(configuration.Network)]
    lines += ["", "networks.<name>.model", *_keys(Model)]
    lines += ["", "networks.<name>.checkpoint", *_keys(Checkpoint)]
    lines += ["", "networks.<name>.checkpoint.expected", *_keys(Expected)]
    lines += ["", "networks.<name>.training", *_keys(TrainingSettings)]
    for kind in KINDS:
        lines += ["", f"data.<name> of kind {kind}", *_keys(settings_of(kind))]
    for name in (*registry.OF_NETWORKS, *registry.OF_PROFILES):
        analysis = registry.analysis(name)
        sentence = (analysis.module.__doc__ or "").splitlines()[0]
        lines += ["", f"analyses.{name}: {sentence}", *_keys(analysis.settings)]
    lines += ["", "claims.<claim>.<rule>", *_keys(configuration.Rule)]
    return "\n".join(lines)


def _keys(model: type[Settings]) -> Iterator[str]:
    for key, field in model.model_fields.items():
        extra, shown = field.json_schema_extra, "required"
        if not field.is_required():
            # As a configuration would say it; an end of the document is no part of it.
            default = field.get_default(call_default_factory=True)
            shown = yaml.safe_dump(default, default_flow_style=True, width=10_000).split("\n")[0]
        of = f" [{unit}]" if isinstance(extra, dict) and (unit := extra.get("unit")) else ""
        yield f"  {key}: {shown}{of}  # {field.description}"


if __name__ == "__main__":
    print(reference())
