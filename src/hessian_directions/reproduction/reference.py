"""Every key of a configuration with its default, its unit and a sentence: `make config`.

`python -m hessian_directions.reproduction.reference`.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from hessian_directions.analyses import registry
from hessian_directions.learning.settings import Checkpoint, Expected, TrainingSettings
from hessian_directions.reproduction import configuration
from hessian_directions.settings import Model, Settings


def reference() -> str:
    """The whole reference, a line for each key."""
    from hessian_directions.data.registry import KINDS, keys
    from hessian_directions.data.source import Choice

    lines = ["A profile", *_keys(configuration.Profile)]
    lines += ["", "networks.<name>", *_keys(configuration.Network)]
    lines += ["", "networks.<name>.model", *_keys(Model)]
    lines += ["", "networks.<name>.checkpoint", *_keys(Checkpoint)]
    lines += ["", "networks.<name>.checkpoint.expected", *_keys(Expected)]
    lines += ["", "networks.<name>.training", *_keys(TrainingSettings)]
    for kind, function in KINDS.items():
        lines += ["", f"data.<name> of kind {kind}", *_parameters(keys(function), function, Choice)]
    for name in (*registry.OF_NETWORKS, *registry.OF_PROFILES):
        analysis = registry.analysis(name)
        sentence = (analysis.module.__doc__ or "").splitlines()[0]
        lines += ["", f"analyses.{name}: {sentence}", *_keys(analysis.settings)]
    lines += ["", "claims.<claim>.<rule>", *_keys(configuration.Rule)]
    return "\n".join(lines)


def _keys(model: type[Settings]) -> Iterator[str]:
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield _line(key, default, str(extra.get("unit", "")), field.description or "")


def _parameters(
    parameters: Mapping[str, inspect.Parameter], *described_by: Callable[..., Any]
) -> Iterator[str]:
    """Keywords, with what the docstrings of these functions and classes say of them."""
    said: dict[str, str] = {}
    for described in described_by:
        said = _arguments(inspect.getdoc(described) or "") | said
    for key, parameter in parameters.items():
        default = parameter.default
        default = PydanticUndefined if default is parameter.empty else default
        yield _line(key, default, "", said.get(key, ""))


def _arguments(docstring: str) -> dict[str, str]:
    """The sentences of a docstring's `Args:`, by name."""
    said: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if re.fullmatch(r"Args:", line):
            inside = True
        elif inside and (start := re.match(r"    (\w[\w, ]*): (.*)", line)):
            names = [name.strip() for name in start[1].split(",")]
            said |= dict.fromkeys(names, start[2])
        elif inside and line.startswith("     "):
            said |= {name: f"{said[name]} {line.strip()}" for name in names}
        elif line and not line.startswith(" "):
            inside = False
    return said


def _line(key: str, default: Any, unit: str, sentence: str) -> str:
    if default is PydanticUndefined:
        shown = "required"
    else:
        # As a configuration would say it; an end of the document is no part of it.
        shown = yaml.safe_dump(default, default_flow_style=True, width=10_000).split("\n")[0]
    of = f" [{unit}]" if unit else ""
    return f"  {key}: {shown}{of}  # {sentence}"


if __name__ == "__main__":
    print(reference())
