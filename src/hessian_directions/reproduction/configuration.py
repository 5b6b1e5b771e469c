"""Configuration: typed, complete with its defaults before anything is read from it.

A mistake ends with one sentence that names the file, the key and what is allowed there.
"""

import argparse
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field

from hessian_directions import settings as typed
from hessian_directions.analyses import registry
from hessian_directions.errors import ConfigurationError, as_program
from hessian_directions.learning.settings import Checkpoint, TrainingSettings
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
    checked,
    setting,
    unknown,
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


def read(path: str | Path, root: str | Path = ".") -> Configuration:
    """The complete configuration of a YAML file; `root` is the project's folder.

    Raises ConfigurationError as `complete` does, and where the file cannot be read.
    """
    return complete(read_yaml(path), str(path), root)


def program(name: str, sentence: str, work: Callable[[Configuration, Path], str]) -> int:
    """What a program has to say of a configuration that its arguments name; its exit status."""
    parser = argparse.ArgumentParser(description=sentence)
    parser.add_argument("config", help="the configuration of a profile")
    # Shells leave ~ as it is in quotes.
    path = Path(parser.parse_args().config).expanduser()
    return as_program(name, lambda: work(read(path), path))


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


def read_record(path: str | Path) -> Configuration:
    """The complete configuration that a run or an archive keeps; ConfigurationError where it is none."""
    content = read_yaml(path)
    networks = content.get("networks", {}) if isinstance(content, Mapping) else None
    if isinstance(networks, Mapping) and all(isinstance(n, Mapping) for n in networks.values()):
        return dict(content)
    raise ConfigurationError(f"{path} is corrupt: it holds no configuration")


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
    `analyses` hold what its networks have in common, and the analyses that study no network. A
    configuration that is complete comes back as it is. Raises ConfigurationError with `name`, the
    first key that is wrong, and what is allowed there; `root` is the project's folder.
    """
    if not isinstance(configuration, Mapping):
        raise ConfigurationError(f"{name}: the configuration is no mapping of keys")
    given = dict(configuration)
    networks = given.get("networks")
    if isinstance(networks, Mapping):  # one that is complete: back to what it was made from
        given["networks"] = {key: _listed(network) for key, network in networks.items()}
    profile = checked(Profile, given, name=name)
    for sentence in _misfits(profile):
        raise ConfigurationError(f"{name}: {sentence}")
    settings = profile.model_dump()
    common = {
        analysis: _complete(analysis, ("analyses", analysis), name, profile.analyses)
        for analysis in (*registry.OF_NETWORKS, *registry.OF_PROFILES)
        if analysis in registry.OF_NETWORKS or analysis in profile.analyses
    }
    for key, network in profile.networks.items():
        own = settings["networks"][key]
        own["label"] = network.label or key
        own["data"] = network.data or next(iter(profile.data))
        place, given_of = ("networks", key, "overrides"), (profile.analyses, network.overrides)
        own["analyses"] = {
            analysis: _complete(analysis, (*place, analysis), name, *given_of)
            for analysis in network.analyses
        }
        del own["overrides"]
    _require_like_networks(settings["networks"], profile, name)
    _share_out(settings["networks"])
    used = {analysis for network in profile.networks.values() for analysis in network.analyses}
    settings["analyses"] = {
        analysis: values
        for analysis, values in common.items()
        if analysis in used or analysis in registry.OF_PROFILES
    }
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


def _misfits(profile: Profile) -> Iterator[str]:
    """Sentences about names that nothing in the configuration has, and parts that exclude each other."""
    of_networks, known = registry.OF_NETWORKS, ", ".join(profile.data)
    for key, network in profile.networks.items():
        place, training = f"networks.{key}", network.training
        if network.data is None and len(profile.data) > 1:
            yield f"key '{place}.data' is missing; known: {known}"
        if network.data is not None and network.data not in profile.data:
            yield f"key '{place}.data' names '{network.data}'; known: {known}"
        if (training is None) == (network.checkpoint is None):
            yield f"key '{place}' needs either 'training' or 'checkpoint', and not both"
        if training is None:
            for part, default in (("seed", None), ("checkpoint_precision", "float32")):
                if getattr(network, part) != default:
                    yield f"key '{place}.{part}' needs 'training': weights made elsewhere are kept"
        # Analyses would see clean labels, which the network was not trained on.
        if training is not None and training.label_noise:
            yield f"key '{place}.training.label_noise' is for the population alone"
        if "trajectory" in network.analyses and not (training and training.snapshots):
            yield (
                f"key '{place}.analyses' names trajectory, but the network keeps no weights along "
                f"training; give it '{place}.training.snapshots'"
            )
        for name in network.overrides:
            if name in of_networks and name not in network.analyses:
                yield (
                    f"key '{place}.overrides' names {name}, which is not among the network's "
                    f"analyses: {', '.join(network.analyses)}"
                )
        if strange := [name for name in network.overrides if name not in of_networks]:
            yield unknown([f"{place}.overrides.{name}" for name in strange], of_networks)
    of_all = (*of_networks, *registry.OF_PROFILES)
    if strange := [name for name in profile.analyses if name not in of_all]:
        yield unknown([f"analyses.{name}" for name in strange], of_all)
    data = profile.analyses.get("population", {}).get("data")
    if isinstance(data, str) and data not in profile.data:
        yield f"key 'analyses.population.data' names {data!r}; known: {known}"


def _complete(
    analysis: str, place: tuple[str, ...], name: str, *given: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """All settings of an analysis, from some by analysis, of which later ones count more."""
    own = {key: value for settings in given for key, value in settings.get(analysis, {}).items()}
    return checked(registry.analysis(analysis).settings, own, *place, name=name).model_dump()


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
            own = profile.networks[key].overrides.get(analysis)
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
                checked(Rule, given, *place, name=name)
            # A configuration that is complete has these, too.
            given = {k: v for k, v in given.items() if k not in ("statistic", "side")}
            try:
                values = {**content[claim][rule], **given}
            except (KeyError, TypeError):
                raise ConfigurationError(f"{path}: key '{claim}.{rule}' is missing") from None
            rules[claim][rule] = {
                "statistic": declared.statistic,
                "side": declared.side,
                **checked(Rule, values, *place, name=name if given else str(path)).model_dump(),
            }
    for where, source in ((name, own), (path, content)):
        for claim, its_rules in source.items():
            if (known := claims.RULES.get(claim)) is None:
                raise ConfigurationError(f"{where}: {unknown([f'claims.{claim}'], claims.RULES)}")
            if strange := [f"claims.{claim}.{rule}" for rule in its_rules if rule not in known]:
                raise ConfigurationError(f"{where}: {unknown(strange, known)}")
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


def _differences_from(
    configuration: Configuration, archive: str | Path
) -> Iterator[tuple[str, str, str]]:
    archived = read_record(Path(archive) / "configuration.yaml")
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
        own, others = new.get(key), old.get(key)
        if isinstance(own, Mapping) and isinstance(others, Mapping):
            yield from _differences(own, others, (*place, key))
        elif own != others:
            own, others = (reprlib.repr(of[key]) if key in of else "absent" for of in (new, old))
            yield ".".join((*place, key)), own, others
