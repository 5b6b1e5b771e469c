"""Configuration: validated before anything is parsed from it; a mistake ends with one sentence."""

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from hessian_directions.errors import ConfigurationError

Configuration = Mapping[str, Any]

# What may differ from the configuration an archive was made with, because none of its numbers depends on it.
FREE = {"source", "cache", "claims", "comparison"}
ABSENT = object()  # None is a value


def read(path: str | Path, schema_path: str | Path) -> dict[str, Any]:
    """The validated configuration of a YAML file; errors as for `validate`."""
    try:
        configuration = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path} is not YAML: {reason}") from error
    return validate(configuration, schema_path, str(path))


def validate(configuration: Configuration, schema_path: str | Path, name: str) -> dict[str, Any]:
    """The configuration itself, once it fits the schema and its parts fit each other.

    `name` is what errors call the configuration (its file). Raises ConfigurationError with the
    first key that is wrong and what is allowed there.
    """
    validator = jsonschema.Draft202012Validator(yaml.safe_load(Path(schema_path).read_text()))
    # Lazy: parts are compared only where each of them fits the schema.
    mistakes = chain(
        _misfits(validator, configuration),
        _loose_references(configuration),
        _misfits_of_overrides(validator, configuration),
    )
    for mistake in mistakes:
        raise ConfigurationError(f"{name}: {mistake}")
    return dict(configuration)


def analysis_settings(configuration: Configuration, analysis: str, network: str) -> dict[str, Any]:
    """The settings of an analysis for one network: the common ones, overridden by its own."""
    common = {
        key: value
        for key, value in configuration["analyses"][analysis].items()
        if key != "networks"
    }
    return common | configuration["networks"][network].get("overrides", {}).get(analysis, {})


def require_archived(configuration: Configuration, archive: str | Path, name: str) -> None:
    """Refuse to draw an archive with other settings than those that made its numbers.

    Raises ConfigurationError with the first key that differs from <archive>/configuration.yaml; verdicts' rules,
    tolerances of the comparison, and where things lie may differ.
    """
    path = Path(archive) / "configuration.yaml"
    try:
        archived = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    settings = {key: value for key, value in configuration.items() if key not in FREE}
    archived = {key: value for key, value in archived.items() if key not in FREE}
    for key, own, others in _differences(settings, archived):
        raise ConfigurationError(
            f"{name}: key '{key}' is {own}, in {path} {others}: the archive cannot answer for other settings; "
            "compute them with source=compute"
        )


def _differences(
    new: Configuration, old: Configuration, place: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Keys that two configurations do not share or give other values, with both values."""
    for key in sorted(new.keys() | old.keys()):
        own, others = new.get(key, ABSENT), old.get(key, ABSENT)
        if isinstance(own, Mapping) and isinstance(others, Mapping):
            yield from _differences(own, others, (*place, key))
        elif own != others:
            yield ".".join((*place, key)), _shown(own), _shown(others)


def _shown(value: Any) -> str:
    return "absent" if value is ABSENT else reprlib.repr(value)


def _misfits(
    validator: jsonschema.Draft202012Validator, instance: Any, place: tuple[str, ...] = ()
) -> Iterator[str]:
    """What does not fit the schema, in sentences; `place` leads to the instance."""
    errors = list(validator.iter_errors(instance))
    # A mistyped key is unknown, and the one that was meant is missing: the typo comes first.
    errors.sort(key=lambda error: (error.validator != "additionalProperties", len(error.path)))
    for error in errors:
        yield _sentence(error, (*place, *map(str, error.path)))


def _sentence(error: jsonschema.ValidationError, place: tuple[str, ...]) -> str:
    key = f"key '{'.'.join(place)}'" if place else "the configuration"
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = [".".join((*place, str(k))) for k in error.instance if k not in known]
        return f"unknown key {_quoted(unknown)}; allowed here: {', '.join(known)}"
    if error.validator == "required":
        needed = error.validator_value
        missing = [".".join((*place, k)) for k in needed if k not in error.instance]
        return f"key {_quoted(missing)} is missing; needed there: {', '.join(needed)}"
    if error.validator == "enum":
        allowed = ", ".join(map(str, error.validator_value))
    elif error.validator == "type" and error.validator_value == "object":
        allowed = "a mapping of keys"
    else:
        allowed = error.schema.get("description", error.message)
    verb = "names" if "propertyNames" in error.schema_path else "is"
    return f"{key} {verb} {reprlib.repr(error.instance)}; allowed: {allowed}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _loose_references(configuration: Configuration) -> Iterator[str]:
    """Names that nothing in the configuration has, and parts that exclude each other."""
    networks, data = configuration["networks"], configuration["data"]
    for network, settings in networks.items():
        yield from _unknown(f"networks.{network}.data", [settings["data"]], data)
        if ("training" in settings) == ("checkpoint" in settings):
            yield f"key 'networks.{network}' needs either 'training' or 'checkpoint', and not both"
        # Analyses would see clean labels, which the network was not trained on.
        if settings.get("training", {}).get("label_noise"):
            yield f"key 'networks.{network}.training.label_noise' is for the population alone"
        if "checkpoint" in settings and "checkpoint_precision" in settings:
            yield f"key 'networks.{network}.checkpoint_precision' needs 'training': weights made elsewhere are kept"
    for analysis, settings in configuration["analyses"].items():
        yield from _unknown(f"analyses.{analysis}.networks", settings["networks"], networks)
    for network in configuration["analyses"]["trajectory"]["networks"]:
        if not networks[network].get("training", {}).get("snapshots"):
            yield (
                f"key 'analyses.trajectory.networks' names '{network}', which keeps no weights "
                f"along training; give it 'networks.{network}.training.snapshots'"
            )
    for key in ("synthetic", "population"):
        if "companion" in configuration and key in configuration:
            yield f"key '{key}' is not allowed beside 'companion', whose archive is used for it"
        if "companion" not in configuration and key not in configuration:
            yield f"key '{key}' is missing, or the 'companion' whose archive is used for it"
    if "companion" in configuration:
        return
    population, synthetic = configuration["population"], configuration["synthetic"]
    yield from _unknown("population.data", [population["data"]], data)
    members = math.prod(map(len, population["factors"].values()))
    if population["n_jobs"] > members:
        yield f"key 'population.n_jobs' is {population['n_jobs']}; allowed: 1 to {members}, the members"
    if (largest := max(synthetic["dimensions"])) > 2 * synthetic["n"] + 1:
        yield f"key 'synthetic.dimensions' is {largest}; allowed: 1 to 2n + 1 = {2 * synthetic['n'] + 1}"
    for key in ("n_positive", "shown", "dimension_saddles", "trace_saddles"):
        if (largest := max(synthetic[key])) > 2 * synthetic["n"]:
            yield f"key 'synthetic.{key}' is {largest}; allowed: 0 to 2n = {2 * synthetic['n']}"


def _unknown(place: str, names: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name not in known:
            yield f"key '{place}' names '{name}'; known: {', '.join(known)}"


def _misfits_of_overrides(
    validator: jsonschema.Draft202012Validator, configuration: Configuration
) -> Iterator[str]:
    analyses = validator.schema["properties"]["analyses"]["properties"]
    properties = {}
    for analysis, schema in analyses.items():
        own = {key: value for key, value in schema["properties"].items() if key != "networks"}
        properties[analysis] = {
            "type": "object",
            "additionalProperties": False,
            "properties": own,
        }
    overrides = validator.evolve(schema={"additionalProperties": False, "properties": properties})
    for network, settings in configuration["networks"].items():
        place = ("networks", network, "overrides")
        yield from _misfits(overrides, settings.get("overrides", {}), place)
