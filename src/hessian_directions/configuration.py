"""Configuration: validated before anything is parsed from it; a mistake ends with one sentence."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from hessian_directions.errors import ConfigurationError


def validate(configuration: Mapping[str, Any], schema_path: str | Path, name: str) -> dict[str, Any]:
    """The configuration itself, once it fits the schema and its parts fit each other.

    `name` is what errors call the configuration (its file). Raises ConfigurationError with the key that is
    wrong and what is allowed there.
    """
    schema = yaml.safe_load(Path(schema_path).read_text())
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(
        validator.iter_errors(configuration), key=lambda e: (-len(e.path), e.validator not in _STRUCTURAL)
    )
    if error is not None:
        raise ConfigurationError(f"{name}: {_sentence(error)}")
    configuration = dict(configuration)
    _check_references(configuration, name)
    return configuration


_STRUCTURAL = {"additionalProperties", "required", "type", "enum"}


def _sentence(error: jsonschema.ValidationError) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(allowed))
        keys = ", ".join(repr(f"{place}.{key}" if place else key) for key in unknown)
        return f"unknown key {keys}; allowed here: {', '.join(allowed)}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        where = f"in '{place}'" if place else "at the top"
        return f"key {', '.join(map(repr, missing))} is missing {where}"
    if error.validator == "enum":
        allowed = ", ".join(map(str, error.validator_value))
        return f"key '{place}' is {error.instance!r}; allowed: {allowed}"
    return f"key '{place}': {error.message}"


def _check_references(configuration: Mapping[str, Any], name: str) -> None:
    networks, data = configuration["networks"], configuration["data"]
    for network, settings in networks.items():
        _require_known(settings["data"], data, f"{name}: key 'networks.{network}.data'")
        if ("training" in settings) == ("checkpoint" in settings):
            raise ConfigurationError(
                f"{name}: 'networks.{network}' needs one of the keys 'training' and 'checkpoint'"
            )
        overrides = settings.get("overrides", {})
        for analysis in overrides:
            place = f"{name}: key 'networks.{network}.overrides.{analysis}'"
            _require_known(analysis, configuration["analyses"], place)
            for key in overrides[analysis]:
                _require_known(key, configuration["analyses"][analysis], f"{place}.{key}")
    for analysis, settings in configuration["analyses"].items():
        for network in settings.get("networks", []):
            _require_known(network, networks, f"{name}: key 'analyses.{analysis}.networks'")
    if "population" in configuration:
        place = f"{name}: key 'population.data'"
        _require_known(configuration["population"]["data"], data, place)


def _require_known(key: str, known: Iterable[str], place: str) -> None:
    if key not in known:
        raise ConfigurationError(f"{place} names {key!r}; known: {', '.join(sorted(known))}")


def analysis_settings(
    configuration: Mapping[str, Any], analysis: str, network: str
) -> dict[str, Any]:
    """The settings of an analysis for one network: the common ones, overridden by the network's own."""
    common = {
        key: value
        for key, value in configuration["analyses"][analysis].items()
        if key != "networks"
    }
    return common | configuration["networks"][network].get("overrides", {}).get(analysis, {})
