"""Configuration: every mistake ends with one sentence that names file, key and what is allowed."""

import copy
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from hessian_directions.analyses import registry
from hessian_directions.errors import ConfigurationError
from hessian_directions.reporting import claims
from hessian_directions.reproduction import configuration, reference
from hessian_directions.reproduction.configuration import (
    complete,
    is_archived,
    read,
    require_archived,
)

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/config/tiny.yaml"
PROFILES = [path for path in sorted(ROOT.glob("config/*.yaml")) if path.name != "claims.yaml"]
ANALYSES = (*registry.OF_NETWORKS, *registry.OF_PROFILES)
CHECKPOINT = {"format": "safetensors", "file": "w.safetensors"}


@pytest.fixture
def tiny() -> dict[str, Any]:
    return yaml.safe_load(TINY.read_text())


@pytest.fixture
def whole() -> dict[str, Any]:
    return read(TINY, ROOT)


def at(settings: Any, place: str) -> Any:
    """The part of a configuration that a dotted place names."""
    for key in place.split(".") if place else []:
        settings = settings[key]
    return settings


def put(settings: Any, place: str, value: Any) -> None:
    """Another value at a dotted place; `...` removes it."""
    parent, _, key = place.rpartition(".")
    if value is ...:
        del at(settings, parent)[key]
    else:
        at(settings, parent)[key] = value


def refused(settings: Any) -> str:
    """The one sentence that a configuration ends with, after the name of its file."""
    with pytest.raises(ConfigurationError) as caught:
        complete(settings, "config/mine.yaml", ROOT)
    message = str(caught.value)
    assert message.startswith("config/mine.yaml: ")
    assert "\n" not in message
    assert not re.search(r"\. [A-Z]", message), "more than one sentence"
    assert len(message) < 700
    return message.removeprefix("config/mine.yaml: ")


# Defaults.


@pytest.mark.parametrize("path", [*PROFILES, TINY], ids=lambda path: path.name)
def test_what_is_complete_comes_back_as_it_is(path: Path) -> None:
    before = yaml.safe_load(path.read_text())
    given = copy.deepcopy(before)
    whole = complete(given, path.name, ROOT)
    assert given == before
    assert complete(whole, path.name, ROOT) == whole
    assert yaml.safe_load(yaml.safe_dump(whole)) == whole


def test_a_few_lines_are_a_profile() -> None:
    """Everything else has a default, and the standard set is analysed."""
    model = {"name": "mlp"}
    given = {
        "profile": "mine",
        "data": {"d": {"kind": "digits"}},
        "networks": {"mine": {"model": model, "checkpoint": {"file": "w.pt"}}},
    }
    whole = complete(given, "mine.yaml", ROOT)
    network = whole["networks"]["mine"]
    assert (network["data"], network["label"]) == ("d", "mine")
    assert tuple(network["analyses"]) == registry.STANDARD
    for name, settings in network["analyses"].items():
        assert settings == registry.analysis(name).settings().model_dump()
    assert set(whole["analyses"]) == set(registry.STANDARD)
    assert {claim: list(rules) for claim, rules in whole["claims"].items()} == {
        claim: list(rules) for claim, rules in claims.RULES.items()
    }


def test_settings_of_one_network_override_those_of_all(tiny: dict[str, Any]) -> None:
    tiny["networks"]["classifier"]["overrides"] = {"slices": {"n_points": 7}}
    whole = complete(tiny, "tiny", ROOT)
    common = whole["analyses"]["slices"]
    assert common["n_points"] == 5
    assert whole["networks"]["classifier"]["analyses"]["slices"] == common | {"n_points": 7}
    assert whole["networks"]["approximator"]["analyses"]["slices"] == common


def models(model: type[BaseModel], place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The model and those within it, each with a place of the tiny configuration that it is for."""
    yield place, model
    for key, field in model.model_fields.items():
        named = {"networks": ".classifier"}.get(key, "")
        for inner in inner_models(field.annotation):
            yield from models(inner, f"{place}.{key}{named}".strip("."))


def inner_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from inner_models(argument)


MODELS = [
    *models(configuration.Profile, ""),
    *(
        pair
        for name in ANALYSES
        for pair in models(registry.analysis(name).settings, f"analyses.{name}")
    ),
    ("claims.C4c.relu", configuration.Rule),
]


def test_an_analysis_is_in_shards_for_all_networks_or_for_none(tiny: dict[str, Any]) -> None:
    def n_shards(settings: dict[str, Any]) -> list[int | None]:
        networks = complete(settings, "tiny.yaml", ROOT)["networks"].values()
        return [
            own["analyses"]["trace"]["n_shards"] for own in networks if "trace" in own["analyses"]
        ]

    assert n_shards(tiny) == [None, None]
    tiny["networks"]["classifier"]["overrides"] = {"trace": {"n_samples": 40, "n_shards": 3}}
    assert n_shards(tiny) == [1, 3]


def test_every_key_has_a_sentence_and_the_reference_lists_it() -> None:
    text = reference.reference()
    for place, model in MODELS:
        for key, field in model.model_fields.items():
            assert field.description, f"{place}.{key}"
            assert f"  {key}: " in text, f"{place}.{key}"
    assert not re.findall(r"^  \w+: .*# $", text, flags=re.MULTILINE)


@pytest.mark.parametrize(("place", "model"), MODELS, ids=[place or "top" for place, _ in MODELS])
def test_unknown_key(tiny: dict[str, Any], place: str, model: type[BaseModel]) -> None:
    if ".checkpoint" in place:
        put(tiny, "networks.classifier.training", ...)
        checkpoint = CHECKPOINT | {"expected": {"test_loss": 0.1, "test_accuracy": 0.9}}
        tiny["networks"]["classifier"] |= {"checkpoint": checkpoint}
    if place.startswith("claims"):
        tiny["claims"] = {"C4c": {"relu": {}}}
    elif place.startswith("analyses"):
        tiny["analyses"].setdefault(place.split(".")[1], {})
    at(tiny, place)["n_ponits"] = 3
    key = f"{place}.n_ponits" if place else "n_ponits"
    assert refused(tiny) == f"unknown key '{key}'; allowed here: {', '.join(model.model_fields)}"


def test_mistyped_keys_are_named_rather_than_the_missing_one(tiny: dict[str, Any]) -> None:
    population = tiny["analyses"]["population"]
    population["factor"] = population.pop("factors")
    population["shards"] = population.pop("n_shards")
    place = "analyses.population"
    assert refused(tiny).startswith(f"unknown key '{place}.factor', '{place}.shards'; allowed")


@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("analyses.surface", ANALYSES),
        ("networks.classifier.overrides", registry.OF_NETWORKS),
        ("claims.C9", claims.RULES),
        ("claims.C6b.hidden_flatness", claims.RULES["C6b"]),
    ],
)
def test_unknown_name(tiny: dict[str, Any], place: str, known: Any) -> None:
    tiny["claims"] = {"C6b": {}}
    put(tiny, place, {"surface": {}} if "overrides" in place else {})
    place += ".surface" if "overrides" in place else ""
    assert refused(tiny) == f"unknown key '{place}'; allowed here: {', '.join(known)}"


@pytest.mark.parametrize(
    "place",
    ["profile", "networks", "networks.classifier.model.name", "analyses.population.factors"],
)
def test_missing_key(tiny: dict[str, Any], place: str) -> None:
    put(tiny, place, ...)
    assert refused(tiny).startswith(f"key '{place}' is missing; it is ")


# Wrong values.


OVERRIDES = "networks.classifier.overrides"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("profile", "My profile", "small letters, digits, _ and -, at most 64 of them"),
        ("source", "cache", "auto, archive, compute"),
        *(("seed", value, "a whole number, at least 0") for value in ("one", -1, 1.5, True)),
        ("device", "gpu", "cpu, cuda"),
        ("cache", 3, "a text or null"),
        ("threads", 0, "a whole number, at least 1"),
        ("processes", 0, "a whole number, at least 1"),
        ("data", [], "a mapping of names to at least one data set"),
        ("data", {}, "a mapping of names to at least one data set"),
        ("data.digits", "digits", "a mapping of keys"),
        ("networks", {}, "a mapping of names to at least one network"),
        ("networks.classifier", None, "a mapping of keys"),
        ("networks.classifier.loss", "hinge", "cross_entropy, mean_squared_error or null"),
        ("networks.classifier.n_images", 0, "a whole number, at least 1 or null"),
        ("networks.classifier.model", "resnet", "a mapping of keys"),
        ("networks.classifier.training", 5, "a mapping of keys or null"),
        ("networks.classifier.analyses", "scores", "a list of analyses: scores, eigenpairs"),
        ("networks.classifier.analyses", ["scores"] * 2, "a list of analyses: scores, eig"),
        ("networks.classifier.analyses", ["saddles"], "a list of analyses: scores, eigenpairs"),
        (OVERRIDES, [], "a mapping of keys"),
        (f"{OVERRIDES}.slices", 3, "a mapping of keys"),
        (f"{OVERRIDES}.slices.n_points", 4, "an odd number, at least 3"),
        ("analyses.eigenpairs.tolerance", 0, "a number above 0"),
        # YAML 1.1 reads 1e-3 as a text.
        ("analyses.eigenpairs.tolerance", "1e-3", "a number above 0 (YAML reads 1.0e-3 as a num"),
        ("analyses.eigenpairs.steps", [], "a list of different numbers above 0"),
        ("analyses.eigenpairs.steps", [0.1, 0.1], "a list of different numbers above 0"),
        ("analyses.visibility.n_planes", 1, "a whole number, at least 2"),
        ("analyses.trace.exact", "no", "true or false"),
        *(("analyses.slices.n_points", value, "an odd number, at least 3") for value in (20, 1)),
        ("analyses.slices.n_points", {"text": "x" * 10_000}, "an odd number, at least 3"),
        ("analyses.slices.planes", ["flat"], "a list of different planes: random, hessian"),
        ("analyses.trajectory.margin", -0.1, "a number, at least 0"),
        ("analyses.saddles.shown", [1, 2], "three different whole numbers"),
        ("analyses.saddles.shown", [41, 2, 3], "0 to 2n = 40"),
        ("analyses.saddles.n_positive", [2, 50], "0 to 2n = 40"),
        ("analyses.saddles.dimension_saddles", [41], "0 to 2n = 40"),
        ("analyses.saddle_traces.n_positive", [41], "0 to 2n = 40"),
        ("analyses.saddles.dimensions", [1, 42], "1 to 2n + 1 = 41"),
        ("analyses.population.n_shards", 5, "1 to 4, the members"),
        ("analyses.trace.n_shards", 3, "1 to 2, the groups of 16"),
        ("analyses.spectrum.n_shards", 2, "1 to 1, the groups of 4"),
        ("analyses.population.loss", "mean_squared_error", "cross_entropy"),
        ("analyses.population.factors", {}, "a mapping of at least one factor"),
        ("analyses.population.factors", {"width": [8]}, "factors with label_noise and seed among"),
        ("analyses.population.factors.width", 8, "a list of different numbers"),
        ("claims.C1a", "inside", "a mapping of keys"),
        ("claims.C1a.expected_curvature", "inside", "a mapping of keys"),
        ("claims.C1a.expected_curvature.threshold", None, "a number"),
        ("claims.C1a.expected_curvature.confidence", 95, "a number between 0 and 1"),
    ],
)
def test_wrong_value(tiny: dict[str, Any], key: str, value: Any, allowed: str) -> None:
    tiny["claims"] = {"C1a": {"expected_curvature": {}}}
    if key.startswith(f"{OVERRIDES}."):
        put(tiny, OVERRIDES, {"slices": {}})
    put(tiny, key, value)
    sentence = refused(tiny)
    assert sentence.startswith(f"key '{key}' is ")
    assert f"; allowed: {allowed}" in sentence


@pytest.mark.parametrize("given", [None, [], "text", 3])
def test_no_mapping_at_all(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^mine\.yaml: the configuration is no mapping"):
        complete(given, "mine.yaml", ROOT)


@pytest.mark.parametrize("name", ["my-net", "a.b", "", 8, True])
def test_name_of_a_network(tiny: dict[str, Any], name: Any) -> None:
    tiny["networks"][name] = tiny["networks"]["classifier"]
    allowed = "letters, digits and _, at most 64 of them"
    assert refused(tiny) == f"key 'networks' names {name!r}; allowed: {allowed}"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("", "'the configuration' has the key 8; allowed: a text"),
        (OVERRIDES, "key 'networks.classifier.overrides' names 8; allowed: a text"),
        ("networks.classifier", "'networks.classifier' has the key 8; allowed: a text"),
        ("analyses.slices", "key 'analyses.slices' names 8; allowed: a text"),
    ],
)
def test_keys_are_texts(tiny: dict[str, Any], place: str, sentence: str) -> None:
    tiny["networks"]["classifier"]["overrides"] = {}
    at(tiny, place)[8] = {}
    assert refused(tiny) == sentence


# Parts that do not fit each other: what is put where, and a part of the sentence.

CLASSIFIER = "networks.classifier"
ELSEWHERE = {f"{CLASSIFIER}.training": ..., f"{CLASSIFIER}.checkpoint": CHECKPOINT}
ALONE = {f"analyses.{name}": ... for name in registry.OF_PROFILES}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({f"{CLASSIFIER}.data": "digts"}, "'networks.classifier.data' names 'digts'; known: funct"),
        ({f"{CLASSIFIER}.data": ...}, "'networks.classifier.data' is missing; known: function, d"),
        ({"analyses.population.data": "digts"}, "key 'analyses.population.data' names 'digts'; "),
        (
            {f"{CLASSIFIER}.checkpoint": CHECKPOINT},
            "key 'networks.classifier' needs either 'training' or 'checkpoint', and not both",
        ),
        ({f"{CLASSIFIER}.training": ...}, "needs either 'training' or 'checkpoint'"),
        (
            {f"{CLASSIFIER}.training.label_noise": 0.1},
            "key 'networks.classifier.training.label_noise' is for the population",
        ),
        (
            ELSEWHERE | {f"{CLASSIFIER}.checkpoint_precision": "float16"},
            "key 'networks.classifier.checkpoint_precision' needs 'training'",
        ),
        (
            {"analyses.interpolation.others": []},
            "'analyses.interpolation.others' is []; allowed: networks with the model, data and loss "
            "of classifier: again",
        ),
        *(
            (
                {f"{CLASSIFIER}.overrides": {"interpolation": {"others": ["again", other]}}},
                f"'networks.classifier.overrides.interpolation.others' names '{other}'; allowed",
            )
            for other in ("approximator", "agian", "classifier")
        ),
        (
            {"networks.again.training": ..., "networks.again.checkpoint": CHECKPOINT},
            "key 'networks.again.seed' needs 'training': weights made elsewhere are kept",
        ),
        (ELSEWHERE, "key 'networks.classifier.analyses' names trajectory, but the network keeps"),
        ({f"{CLASSIFIER}.training.snapshots": ...}, "give it 'networks.classifier.training.snap"),
        # As in a configuration that is complete, which has no overrides.
        (
            {f"{CLASSIFIER}.analyses": {"scores": {}}, f"{CLASSIFIER}.overrides": {}},
            "key 'networks.classifier.analyses' is {'scores': {}}; allowed: a list of analyses",
        ),
        ({f"{CLASSIFIER}.checkpoint": {"sha256": "abc"}}, "allowed: 64 hexadecimal digits"),
    ],
)
def test_parts_that_do_not_fit(
    tiny: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    for place, value in changes.items():
        put(tiny, place, value)
    assert sentence in refused(tiny)


@pytest.mark.parametrize(
    "changes",
    [ALONE, ELSEWHERE | {f"{CLASSIFIER}.analyses": ["scores"]}],
    ids=["saddles of the companion", "checkpoint"],
)
def test_parts_that_fit(tiny: dict[str, Any], changes: dict[str, Any]) -> None:
    for place, value in changes.items():
        put(tiny, place, value)
    complete(tiny, "tiny", ROOT)


def test_missing_threshold(tiny: dict[str, Any], tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / configuration.CLAIMS).read_text())
    del content["C8a"]
    (tmp_path / "config").mkdir()
    (tmp_path / configuration.CLAIMS).write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError, match=r"claims.yaml: key 'C8a.lower_loss' is missing"):
        complete(tiny, "tiny", tmp_path)


# Files.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "mine.yaml cannot be read: No such file"),
        ("profile: [tiny\nseed: 1\n", "mine.yaml is not YAML: .*line 2"),
        ("seed: 1\nseed: 2\n", "mine.yaml is not YAML: the key 'seed' is there twice in line 2"),
        ("# nothing\n", "mine.yaml: the configuration is no mapping"),
    ],
)
def test_file_that_is_no_configuration(tmp_path: Path, text: str | None, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"^{tmp_path}/{sentence}") as caught:
        read(path, ROOT)
    assert "\n" not in str(caught.value)


# An archive answers for the settings it was made with.


def archived(folder: Path, settings: dict[str, Any]) -> Path:
    (folder / "configuration.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_archive_answers_for_its_own_settings(whole: dict[str, Any], tmp_path: Path) -> None:
    assert not is_archived(whole, tmp_path)
    with pytest.raises(ConfigurationError, match=r"configuration.yaml cannot be read: No such"):
        require_archived(whole, tmp_path, "mine.yaml")
    archive = archived(tmp_path, whole | {"comparison": {"networks": {"relative": 1.0}}})
    whole |= {"source": "archive", "cache": "elsewhere", "device": "cuda"}
    whole["networks"]["classifier"]["batch_size"] = 7
    whole["claims"]["C8a"]["lower_loss"]["threshold"] = 0.5
    require_archived(whole, archive, "mine.yaml")
    assert is_archived(whole, archive)


@pytest.mark.parametrize("content", ["", "- 1", "text", "networks: 3", "networks: {a: 1}", "{"])
def test_what_is_no_recorded_configuration(
    whole: dict[str, Any], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "configuration.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=rf"{path} is (corrupt|not YAML)"):
        require_archived(whole, tmp_path, "mine.yaml")
    with pytest.raises(ConfigurationError, match=rf"{path} is (corrupt|not YAML)"):
        is_archived(whole, tmp_path)


def test_archive_made_before_there_was_a_key(whole: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(whole)
    del before["networks"]["classifier"]["seed"]
    assert whole["networks"]["classifier"]["seed"] is None
    assert is_archived(whole, archived(tmp_path, before))
    whole["networks"]["classifier"]["seed"] = 1
    assert not is_archived(whole, tmp_path)


@pytest.mark.parametrize(
    "place", ["seed", "analyses.spectrum.n_steps", "networks.classifier.analyses.slices.n_points"]
)
def test_archive_of_other_settings(whole: dict[str, Any], tmp_path: Path, place: str) -> None:
    archive, before = archived(tmp_path, whole), at(whole, place)
    sentence = f"mine.yaml: key '{place}' is {{}}, in {tmp_path}/configuration.yaml {before!r}: "
    for value, said in ((99, "99"), (..., "absent")):
        put(whole, place, value)
        with pytest.raises(ConfigurationError, match=re.escape(sentence.format(said))):
            require_archived(whole, archive, "mine.yaml")
        assert not is_archived(whole, archive)
