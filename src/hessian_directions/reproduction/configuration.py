"""Configuration: typed, complete with its defaults before anything is read from it.

A mistake ends with one sentence that names the file, the key and what is allowed there.
"""

import reprlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from hessian_directions import settings as typed
from hessian_directions.analyses import registry
from hessian_directions.errors import ConfigurationError
from hessian_directions.learning.settings import TrainingSettings
from hessian_directions.reporting import claims
from hessian_directions.settings import (
    Allowed,
    Count,
    Model,
    Natural,
    Number,
    Settings,
    Share,
    Text,
    setting,
)

Configuration = dict[str, Any]

CLAIMS = "config/claims.yaml"

# What may differ from the configuration an archive was made with: no number depends on it but for
# rounding. Archives of former versions state tolerances, too.
FREE = {"source", "cache", "claims", "comparison", "device", "processes"}
FREE_OF_A_NETWORK = {"batch_size"}

Name = Annotated[
    str, Field(pattern="^[A-Za-z0-9_]{1,64}$"), Allowed("letters, digits and _, at most 64 of them")
]
ProfileName = Annotated[
    str,
    Field(pattern="^[a-z0-9_-]{1,64}$"),
    Allowed("small letters, digits, _ and -, at most 64 of them"),
]
AnalysisNames = Annotated[
    list[str],
    AfterValidator(lambda names: typed.all_among(names, registry.OF_NETWORKS)),
    Allowed(f"a list of analyses: {', '.join(registry.OF_NETWORKS)}"),
]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$"), Allowed("64 hexadecimal digits")]


class Expected(Settings):
    """What an imported network scores on the test images, to 0.001."""

    test_loss: Number = setting(..., "mean loss")
    test_accuracy: Number = setting(..., "share of the images that are classified correctly")


class Checkpoint(Settings):
    """Weights made elsewhere."""

    format: Literal["safetensors", "torch", "li_et_al", "timm", "torchvision"] | None = setting(
        None, "of the file; null: found by its content, or by the model's library"
    )
    name: Text | None = setting(
        None,
        "of published weights: hf_hub:<owner>/<name> or a name in timm's own list; weights of "
        "torchvision by their name",
    )
    key: Text | None = setting(
        None, "where the weights stand in a dictionary, as a.b; null: they are looked for"
    )
    prefix: Text | None = setting(
        None, "what stands before every name; null: prefixes of wrappers are taken off"
    )
    file: Text | None = setting(None, "path of the file; its name in the cache folder beside a url")
    url: Text | None = setting(None, "where it is fetched from")
    sha256: Sha256 | None = setting(None, "checksum that the file must have")
    expected: Expected | None = setting(None, "scores that the network must have")


class Network(Settings):
    """A network and what is analysed of it."""

    label: Text | None = setting(None, "printed name; null: its key")
    data: Text | None = setting(None, "a key of `data`; null: the only one")
    loss: Literal["cross_entropy", "mean_squared_error"] | None = setting(
        None, "what is minimised and analysed; null: cross entropy where the data have classes"
    )
    model: Model = setting(..., "the network")
    training: TrainingSettings | None = setting(None, "how it is trained here")
    seed: Natural | None = setting(
        None,
        "of its initial weights and its training, beside the profile's: networks that differ in "
        "this key alone are trained apart; null: the profile's alone",
    )
    checkpoint: Checkpoint | None = setting(None, "weights made elsewhere, in place of `training`")
    checkpoint_precision: Literal["float16", "bfloat16", "float32"] = setting(
        "float32", "what trained weights are rounded to before they are kept and analysed"
    )
    n_images: Count | None = setting(
        None, "balanced choice of images that curvature is taken over; null: all", unit="images"
    )
    batch_size: Count = setting(256, "images in one pass; memory grows with it", unit="images")
    analyses: AnalysisNames = setting(
        list(registry.STANDARD), "what is computed of it; without a list the standard set"
    )
    overrides: dict[str, dict[str, Any]] = setting(
        {}, "settings of single analyses for this network, by analysis"
    )


class Rule(Settings):
    """What decides one rule of a claim."""

    threshold: Number = setting(..., "on whose side the interval must lie")
    confidence: Share = setting(0.95, "of the interval of each subject")
    n_parameters: Count = setting(1, "subjects are the networks of at least this size")
    n_images: Count = setting(1, "images that they are measured on at least; fewer decide nothing")


class Profile(Settings):
    """A configuration of the workflow."""

    profile: ProfileName = setting(..., "name of results/<tree>/<profile>")
    source: Literal["auto", "archive", "compute", "recompute", "replicate"] = setting(
        "auto",
        "archive: draw from results/archive/<profile>; compute: make everything; recompute: make "
        "everything but the archive's weights; replicate: make everything once more, with another "
        "seed; auto: the archive where it holds this configuration, else compute",
    )
    companion: ProfileName | None = setting(
        None,
        "archived profile that the paper shows beside this one; its saddles and its population stand "
        "in where this one has none",
    )
    seed: Natural = setting(1, "every stage's generator starts from this number and a name")
    device: Literal["cpu", "cuda"] = setting("cpu", "where networks are trained and analysed")
    precision: Literal["float32", "float64"] = setting(
        "float32",
        "of curvature; differences of losses and the check of eigenvalues are taken in float64",
    )
    cache: Text | None = setting(
        None, "download folder; null: $HESSIAN_DIRECTIONS_CACHE, else the user's cache folder"
    )
    threads: Count = setting(1, "of a job; bits depend on it", unit="threads")
    processes: Count = setting(
        1,
        "of a job that analyses one network: they share out its images and the job's threads, each "
        "with a device of its own where that is a GPU; numbers depend on it by rounding alone",
        unit="processes",
    )
    data: Annotated[
        dict[str, dict[str, Any]],
        Field(min_length=1),
        Allowed("a mapping of names to at least one data set"),
    ] = setting(..., "data sets by name; `kind` and what that kind takes")
    networks: Annotated[
        dict[Name, Network],
        Field(min_length=1),
        Allowed("a mapping of names to at least one network"),
    ] = setting(..., "networks by name")
    analyses: dict[str, dict[str, Any]] = setting(
        {}, "settings of analyses that differ from the defaults, by analysis"
    )
    claims: dict[str, dict[str, Any]] = setting({}, f"rules of the verdicts; those of {CLAIMS}")

    @model_validator(mode="after")
    def _fit(self) -> "Profile":
        """Names that nothing in the configuration has, and parts that exclude each other."""
        for key, network in self.networks.items():
            place = f"networks.{key}"
            known = ", ".join(self.data)
            if network.data is None and len(self.data) > 1:
                raise MisfitError(f"key '{place}.data' is missing; known: {known}")
            if network.data is not None and network.data not in self.data:
                raise MisfitError(f"key '{place}.data' names '{network.data}'; known: {known}")
            if (network.training is None) == (network.checkpoint is None):
                raise MisfitError(
                    f"key '{place}' needs either 'training' or 'checkpoint', and not both"
                )
            if network.checkpoint is not None and network.seed is not None:
                raise MisfitError(
                    f"key '{place}.seed' needs 'training': weights made elsewhere are kept"
                )
            # Analyses would see clean labels, which the network was not trained on.
            if network.training is not None and network.training.label_noise:
                raise MisfitError(f"key '{place}.training.label_noise' is for the population alone")
            if network.checkpoint is not None and network.checkpoint_precision != "float32":
                raise MisfitError(
                    f"key '{place}.checkpoint_precision' needs 'training': weights made elsewhere "
                    "are kept"
                )
            keeps_weights = network.training is not None and network.training.snapshots
            if "trajectory" in network.analyses and not keeps_weights:
                raise MisfitError(
                    f"key '{place}.analyses' names trajectory, but the network keeps no weights "
                    f"along training; give it '{place}.training.snapshots'"
                )
            for analysis in network.overrides:
                if analysis in registry.OF_NETWORKS and analysis not in network.analyses:
                    raise MisfitError(
                        f"key '{place}.overrides' names {analysis}, which is not among the "
                        f"network's analyses: {', '.join(network.analyses)}"
                    )
        return self


class MisfitError(Exception):
    """A sentence about parts that do not fit each other."""


def read(path: str | Path, root: str | Path = ".") -> Configuration:
    """The complete configuration of a YAML file; `root` is the project's folder.

    Raises ConfigurationError as `complete` does, and where the file cannot be read.
    """
    return complete(read_yaml(path), str(path), root)


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file; ConfigurationError where it cannot be read or parsed."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8-sig"), _Unambiguous)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8: save it in this encoding") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigurationError(f"{path} is not YAML: {reason}{where}") from error


class _Unambiguous(yaml.SafeLoader):
    """YAML without keys that are there twice, of which PyYAML silently takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, (key, _) in enumerate(node.value):
            if key.value in names[:place] and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def complete(configuration: Mapping[str, Any], name: str, root: str | Path = ".") -> Configuration:
    """The configuration with all its defaults, once its parts are right and fit each other.

    Every network has all the settings of each of its analyses under `analyses`; the profile's own
    `analyses` hold what its networks have in common, and the analyses that study no network.

    Args:
        configuration: As a YAML file holds it. One that is complete comes back as it is.
        name: What errors call the configuration (its file).
        root: The project's folder.

    Raises:
        ConfigurationError: The first key that is wrong, and what is allowed there.
    """
    if not isinstance(configuration, Mapping):
        raise ConfigurationError(f"{name}: the configuration is no mapping of keys")
    given = dict(configuration)
    networks = given.get("networks")
    if isinstance(networks, Mapping):  # one that is complete: back to what it was made from
        given["networks"] = {key: _listed(network) for key, network in networks.items()}
    profile = _checked(Profile, given, name)
    settings = profile.model_dump()
    common = _common_settings(profile, name)
    for key, network in profile.networks.items():
        own = settings["networks"][key]
        own["label"] = network.label or key
        own["data"] = network.data or next(iter(profile.data))
        own["analyses"] = _own_settings(profile, key, network, name)
        del own["overrides"]
    _require_like_networks(settings["networks"], profile, name)
    _share_out(settings["networks"])
    used = {analysis for network in profile.networks.values() for analysis in network.analyses}
    settings["analyses"] = {
        analysis: values
        for analysis, values in common.items()
        if analysis in used or analysis in registry.OF_PROFILES
    }
    population = settings["analyses"].get("population")
    if population is not None and population["data"] not in settings["data"]:
        known = ", ".join(settings["data"])
        raise ConfigurationError(
            f"{name}: key 'analyses.population.data' names {population['data']!r}; known: {known}"
        )
    settings["claims"] = complete_claims(profile.claims, name, root)
    return settings


def _listed(network: Any) -> Any:
    """A network whose analyses are complete, with them as a list and their settings as overrides."""
    if not isinstance(network, Mapping) or not isinstance(network.get("analyses"), Mapping):
        return network
    if "overrides" in network:  # which one that is complete has not
        return network
    analyses = network["analyses"]
    return {**network, "analyses": list(analyses), "overrides": dict(analyses)}


def _common_settings(profile: Profile, name: str) -> dict[str, dict[str, Any]]:
    """The settings of each analysis where no network overrides them; of those of profiles, those
    that the configuration names.
    """
    known = (*registry.OF_NETWORKS, *registry.OF_PROFILES)
    unknown = [f"analyses.{key}" for key in profile.analyses if key not in known]
    if unknown:
        raise ConfigurationError(
            f"{name}: unknown key {_quoted(unknown)}; allowed here: {', '.join(known)}"
        )
    common = {}
    for analysis in (
        *registry.OF_NETWORKS,
        *(key for key in registry.OF_PROFILES if key in profile.analyses),
    ):
        model = registry.analysis(analysis).settings
        own = profile.analyses.get(analysis, {})
        common[analysis] = _checked(model, own, name, ("analyses", analysis)).model_dump()
    return common


def _own_settings(
    profile: Profile, key: str, network: Network, name: str
) -> dict[str, dict[str, Any]]:
    unknown = [
        f"networks.{key}.overrides.{analysis}"
        for analysis in network.overrides
        if analysis not in registry.OF_NETWORKS
    ]
    if unknown:
        raise ConfigurationError(
            f"{name}: unknown key {_quoted(unknown)}; "
            f"allowed here: {', '.join(registry.OF_NETWORKS)}"
        )
    settings = {}
    for analysis in network.analyses:
        model = registry.analysis(analysis).settings
        own = network.overrides.get(analysis, {})
        place = ("networks", key, "overrides", analysis)
        together = {**profile.analyses.get(analysis, {}), **own}
        settings[analysis] = _checked(model, together, name, place).model_dump()
    return settings


def _share_out(networks: Mapping[str, Any]) -> None:
    """An analysis is computed in shards for all networks or for none: one of them is enough."""
    of_all = [network["analyses"] for network in networks.values()]
    for name in registry.OF_NETWORKS:
        settings = [analyses[name] for analyses in of_all if name in analyses]
        if any(own.get("n_shards") for own in settings):
            for own in settings:
                own["n_shards"] = own["n_shards"] or 1


def _require_like_networks(networks: Mapping[str, Any], profile: Profile, name: str) -> None:
    """Other networks that an analysis names must be there, and have the model, data and loss of its own."""
    for key, network in networks.items():
        for analysis, settings in network["analyses"].items():
            if not hasattr(registry.analysis(analysis).module, "other_networks"):
                continue
            own = profile.networks[key].overrides.get(analysis, {})
            place = f"networks.{key}.overrides.{analysis}" if own else f"analyses.{analysis}"
            others = registry.analysis(analysis).other_networks(settings)
            alike = [
                other
                for other, settings in networks.items()
                if other != key
                and all(settings[part] == network[part] for part in ("data", "loss", "model"))
            ]
            wrong = [other for other in others if other not in alike]
            if wrong or not others:
                said = f"names {wrong[0]!r}" if wrong else "is []"
                known = ", ".join(alike) or "none in this profile"
                raise ConfigurationError(
                    f"{name}: key '{place}.others' {said}; allowed: networks with the model, data "
                    f"and loss of {key}: {known}"
                )


def complete_claims(
    own: Mapping[str, Mapping[str, Any]], name: str, root: str | Path = "."
) -> dict[str, dict[str, Any]]:
    """The rules of all claims: thresholds of `config/claims.yaml` where a profile has no others.

    Every claim has every one of its rules: none can be left out because of its verdict.
    """
    path = Path(root) / CLAIMS
    content = read_yaml(path)
    rules: dict[str, dict[str, Any]] = {}
    for claim, of_claim in claims.RULES.items():
        rules[claim] = {}
        for rule, declared in of_claim.items():
            place = ("claims", claim, rule)
            given = own.get(claim, {}).get(rule, {})
            if not isinstance(given, Mapping):
                raise ConfigurationError(
                    f"{name}: key '{'.'.join(place)}' is {reprlib.repr(given)}; "
                    "allowed: a mapping of keys"
                )
            given = dict(given)
            for key in ("statistic", "side"):  # of a configuration that is complete
                given.pop(key, None)
            try:
                values = {**content[claim][rule], **given}
            except (KeyError, TypeError):
                raise ConfigurationError(f"{path}: key '{claim}.{rule}' is missing") from None
            rules[claim][rule] = {
                "statistic": declared.statistic,
                "side": declared.side,
                **_checked(Rule, values, name if given else str(path), place).model_dump(),
            }
    sources: tuple[tuple[str, Mapping[str, Any]], ...] = ((name, own), (str(path), content))
    for where, source in sources:
        for claim, its_rules in source.items():
            known = claims.RULES.get(claim)
            if known is None:
                raise ConfigurationError(
                    f"{where}: unknown key 'claims.{claim}'; allowed here: {', '.join(claims.RULES)}"
                )
            for rule in its_rules:
                if rule not in known:
                    raise ConfigurationError(
                        f"{where}: unknown key 'claims.{claim}.{rule}'; "
                        f"allowed here: {', '.join(known)}"
                    )
    return rules


def is_archived(configuration: Configuration, archive: str | Path) -> bool:
    """Whether an archive holds this configuration."""
    return (Path(archive) / "configuration.yaml").is_file() and not any(
        _differences_from(configuration, archive)
    )


def require_archived(configuration: Configuration, archive: str | Path, name: str) -> None:
    """Refuse to draw an archive with other settings than those that made its numbers.

    Raises ConfigurationError with the first key that differs from <archive>/configuration.yaml;
    rules of verdicts, and where things lie, may differ.
    """
    for key, own, others in _differences_from(configuration, archive):
        raise ConfigurationError(
            f"{name}: key '{key}' is {own}, in {Path(archive) / 'configuration.yaml'} {others}: the "
            "archive is valid only for the settings it was computed with; compute others with "
            "source=compute"
        )


ABSENT = object()  # None is a value


def _differences_from(
    configuration: Configuration, archive: str | Path
) -> Iterator[tuple[str, str, str]]:
    archived = read_yaml(Path(archive) / "configuration.yaml")
    return _differences(numerical(configuration), numerical(archived))


def numerical(configuration: Configuration) -> Configuration:
    """The settings that numbers depend on, but for rounding."""
    networks = {
        name: {key: value for key, value in network.items() if key not in FREE_OF_A_NETWORK}
        for name, network in configuration.get("networks", {}).items()
    }
    kept = {key: value for key, value in configuration.items() if key not in FREE}
    return kept | {"networks": networks}


def _differences(
    new: Mapping[str, Any], old: Mapping[str, Any], place: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Keys that two configurations do not share or give other values, with both values.

    A key that is null is as good as one that did not exist when the other was made.
    """
    for key in sorted(new.keys() | old.keys()):
        own, others = new.get(key, ABSENT), old.get(key, ABSENT)
        if isinstance(own, Mapping) and isinstance(others, Mapping):
            yield from _differences(own, others, (*place, key))
        elif own != others and not (
            (own is ABSENT and others is None) or (own is None and others is ABSENT)
        ):
            yield ".".join((*place, key)), _shown(own), _shown(others)


def _shown(value: Any) -> str:
    return "absent" if value is ABSENT else reprlib.repr(value)


# One sentence for each mistake.


def _checked(model: type[Settings], values: Any, name: str, place: tuple[str, ...] = ()) -> Any:
    """The settings; ConfigurationError with the first mistake in them."""
    try:
        return model.model_validate(values)
    except MisfitError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    except ValidationError as error:
        mistakes = error.errors()
        # A mistyped key is unknown, and the one that was meant is missing: the typo comes first.
        mistakes.sort(key=lambda mistake: mistake["type"] != "extra_forbidden")
        raise ConfigurationError(f"{name}: {_sentence(model, mistakes, place)}") from None


def _sentence(model: type[Settings], mistakes: list[Any], place: tuple[str, ...]) -> str:
    first = mistakes[0]
    location = [part for part in first["loc"] if part != "[key]"]
    if first["type"] in ("extra_forbidden", "missing"):
        inside = location[:-1]
        alike = [
            ".".join((*place, *map(str, mistake["loc"])))
            for mistake in mistakes
            if mistake["type"] == first["type"] and list(mistake["loc"][:-1]) == inside
        ]
        _, annotation = _without_branches(model, map(str, inside))
        known = next(filter(_is_model, _options(annotation))).model_fields
        if first["type"] == "extra_forbidden":
            return f"unknown key {_quoted(alike)}; allowed here: {', '.join(known)}"
        return f"key {_quoted(alike)} is missing; it is {known[str(location[-1])].description}"
    if first["type"] == "invalid_key":
        key = ".".join((*place, *map(str, location[:-1]))) or "the configuration"
        return f"'{key}' has the key {first['input']!r}; allowed: a text"
    if first["type"] == "misfit":
        location.append(first["ctx"]["key"])
        value = first["input"].get(first["ctx"]["key"]) if isinstance(first["input"], dict) else ""
        key = ".".join((*place, *map(str, location)))
        return f"key '{key}' is {reprlib.repr(value)}; allowed: {first['ctx']['allowed']}"
    name, verb = first["input"], "is"
    if "[key]" in first["loc"]:
        verb, (keys, annotation) = "names", _without_branches(model, location[:-1])
        mapping = next(o for o in _options(annotation) if typing.get_origin(o) is dict)
        annotation = typing.get_args(mapping)[0]
    else:
        keys, annotation = _without_branches(model, location)
    key = ".".join((*place, *keys))
    subject = f"key '{key}'" if key else "the configuration"
    return f"{subject} {verb} {reprlib.repr(name)}; allowed: {describe(annotation)}"


def _without_branches(model: type[Settings], location: Iterable[Any]) -> tuple[list[Any], Any]:
    """A place without what pydantic adds to it (the branch of a union that did not fit, the number
    of an item), and the annotation of what lies there.
    """
    kept: list[Any] = []
    annotation: Any = model
    for part in location:
        inner = None if isinstance(part, int) else _inner(annotation, part)
        if inner is not None:
            kept.append(part)
            annotation = inner
    return kept, annotation


def _inner(annotation: Any, key: str) -> Any:
    """The annotation of what lies at a key; None where there is no such key."""
    for option in _options(annotation):
        if _is_model(option) and key in option.model_fields:
            return _annotated(option.model_fields[key])
        if typing.get_origin(option) is dict:
            return typing.get_args(option)[1]
    return None


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)


def _annotated(field: Any) -> Any:
    """The annotation of a field with its metadata."""
    allowed = [item for item in field.metadata if isinstance(item, Allowed)]
    return Annotated[field.annotation, *allowed] if allowed else field.annotation


def _options(annotation: Any) -> Iterator[Any]:
    """What a value may be: itself, or the members of a union, without Annotated."""
    if typing.get_origin(annotation) is Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def describe(annotation: Any) -> str:
    """What a value of this type can be, in words."""
    if typing.get_origin(annotation) is Annotated:
        for item in typing.get_args(annotation)[1:]:
            if isinstance(item, Allowed):
                return item.text
        return describe(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        *others, last = [describe(option) for option in typing.get_args(annotation)]
        return f"{', '.join(others)} or {last}" if others else last
    if typing.get_origin(annotation) is Literal:
        return ", ".join(map(str, typing.get_args(annotation)))
    if annotation in (type(None), str):
        return "a text" if annotation is str else "null"
    if typing.get_origin(annotation) is dict or annotation is dict or _is_model(annotation):
        return "a mapping of keys"
    return "another value"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
