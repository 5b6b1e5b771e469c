"""Configuration: every mistake ends with one sentence that names file, key and what is allowed."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hessian_directions.errors import ConfigurationError
from hessian_directions.reporting import claims
from hessian_directions.reproduction import comparison
from hessian_directions.reproduction.configuration import (
    analysis_settings,
    read,
    require_archived,
    validate,
)

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
TINY = ROOT / "tests/config/tiny.yaml"
PROFILES = [*sorted((ROOT / "config").glob("*.yaml")), TINY]


@pytest.fixture
def tiny() -> dict[str, Any]:
    return yaml.safe_load(TINY.read_text())


def at(configuration: Any, place: str) -> Any:
    """The part of a configuration that a dotted place names."""
    for key in place.split(".") if place else []:
        configuration = configuration[key]
    return configuration


def refused(configuration: Any) -> str:
    """The one sentence that a configuration ends with, after the name of its file."""
    with pytest.raises(ConfigurationError) as caught:
        validate(configuration, SCHEMA, "config/mine.yaml")
    message = str(caught.value)
    assert message.startswith("config/mine.yaml: ")
    assert "\n" not in message
    assert not re.search(r"\. [A-Z]", message), "more than one sentence"
    assert len(message) < 600
    return message.removeprefix("config/mine.yaml: ")


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_profiles_are_valid(path: Path) -> None:
    configuration = read(path, SCHEMA)
    assert configuration == yaml.safe_load(path.read_text())


def test_the_configuration_comes_back_unchanged(tiny: dict[str, Any]) -> None:
    tiny["networks"]["classifier"]["n_images"] = None  # all
    before = copy.deepcopy(tiny)
    assert validate(tiny, SCHEMA, "tiny") == before
    assert tiny == before


# Unknown and missing keys.


def closed_places(schema: Any, root: Any, place: str = "") -> Iterator[tuple[str, list[str]]]:
    """Where the schema allows only certain keys, and which; `*` stands for any name."""
    if "$ref" in schema:
        schema = at(root, schema["$ref"].removeprefix("#/").replace("/", "."))
    if schema.get("additionalProperties") is False:
        yield place, list(schema["properties"])
    children = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        children["*"] = schema["additionalProperties"]
    for key, child in children.items():
        yield from closed_places(child, root, f"{place}.{key}".strip("."))


def concrete(place: str) -> str:
    """A place of the tiny configuration that stands for a place of the schema."""
    place = place.replace("networks.*", "networks.classifier").replace("data.*", "data.digits")
    return place.replace("comparison.*", "comparison.saddles")


_SCHEMA = yaml.safe_load(SCHEMA.read_text())
CLOSED = [(concrete(place), allowed) for place, allowed in closed_places(_SCHEMA, _SCHEMA)]
# A checkpoint stands in place of training; its keys have a test of their own.
CLOSED = [entry for entry in CLOSED if ".checkpoint" not in entry[0]]


def test_levels_are_closed() -> None:
    """What follows is about every level: top, networks, models, analyses, claims, rules, …"""
    places = {place for place, _ in CLOSED}
    assert {"", "networks.classifier", "networks.classifier.model", "synthetic"} <= places
    assert {"analyses", "analyses.eigenpairs", "analyses.trajectory", "population"} <= places
    assert {
        "claims",
        "claims.C4",
        "claims.C4.relu",
        "claims.C7.size",
        "comparison.saddles",
    } <= places


@pytest.mark.parametrize(("place", "allowed"), CLOSED, ids=[place or "top" for place, _ in CLOSED])
def test_unknown_key(tiny: dict[str, Any], place: str, allowed: list[str]) -> None:
    at(tiny, place)["n_ponits"] = 3
    key = f"{place}.n_ponits" if place else "n_ponits"
    assert refused(tiny) == f"unknown key '{key}'; allowed here: {', '.join(allowed)}"


def test_mistyped_key_is_named_rather_than_the_missing_one(tiny: dict[str, Any]) -> None:
    tiny["sed"] = tiny.pop("seed")
    assert refused(tiny).startswith(
        "unknown key 'sed'; allowed here: profile, source, companion, seed"
    )
    tiny["seed"] = tiny.pop("sed")
    surfaces = tiny["analyses"]["surfaces"]
    surfaces["points"] = surfaces.pop("n_points")
    surfaces["shards"] = surfaces.pop("n_shards")
    sentence = refused(tiny)
    assert sentence.startswith("unknown key 'analyses.surfaces.points', 'analyses.surfaces.shards'")


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("", "seed"),
        ("", "claims"),
        ("data.digits", "kind"),
        ("networks.classifier", "loss"),
        ("networks.classifier.model", "name"),
        ("analyses", "spectrum"),
        ("analyses.planes", "networks"),
        ("synthetic", "n"),
        ("population", "factors"),
        ("population.factors", "batch_size"),
        ("claims", "C3"),
        ("claims.C3", "single_projection"),
        ("claims.C3.single_projection", "margin"),
        ("claims.C7.size", "n_parameters"),
        ("comparison.saddles", "absolute"),
    ],
)
def test_missing_key(tiny: dict[str, Any], place: str, key: str) -> None:
    del at(tiny, place)[key]
    missing = f"{place}.{key}" if place else key
    sentence = refused(tiny)
    assert sentence.startswith(f"key '{missing}' is missing; needed there: ")
    assert key in sentence.split("needed there: ")[1].split(", ")


# Wrong values.


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("profile", "My profile", "small letters, digits, _ and -"),
        ("source", "cache", "archive, compute"),
        ("seed", "one", "a whole number, at least 0"),
        ("seed", -1, "a whole number, at least 0"),
        ("seed", 1.5, "a whole number, at least 0"),
        ("seed", True, "a whole number, at least 0"),
        ("device", "gpu", "cpu, cuda"),
        ("precision", "half", "float32, float64"),
        ("cache", 3, "a folder or null"),
        ("threads", 0, "a whole number, at least 1"),
        ("data", [], "a mapping of keys"),
        ("data", {}, "a mapping of names to at least one data set"),
        ("data.digits", "digits", "a mapping of keys"),
        ("networks", {}, "a mapping of names to at least one network"),
        ("networks.classifier", None, "a mapping of keys"),
        ("networks.classifier.loss", "hinge", "cross_entropy, mean_squared_error"),
        ("networks.classifier.n_images", 0, "a whole number, at least 1, or null"),
        ("networks.classifier.batch_size", 0, "a whole number, at least 1"),
        ("networks.classifier.model", "resnet", "a mapping of keys"),
        ("networks.classifier.training", 5, "a mapping of keys"),
        ("analyses.eigenpairs.networks", "classifier", "a list of different networks"),
        ("analyses.eigenpairs.networks", ["classifier"] * 2, "a list of different networks"),
        ("analyses.eigenpairs.tolerance", 0, "a number above 0"),
        # YAML 1.1 reads 1e-3 as a text.
        ("analyses.eigenpairs.tolerance", "1e-3", "a number above 0 (YAML reads 1.0e-3 as a num"),
        ("analyses.eigenpairs.surface_steps", [], "a list of different numbers above 0"),
        ("analyses.eigenpairs.surface_steps", [0.1, 0.1], "a list of different numbers above 0"),
        ("analyses.projections.n_samples", 1, "a whole number, at least 2"),
        ("analyses.projections.exact_trace", "no", "true or false"),
        ("analyses.traces.fit_points", 4, "an odd number, at least 3"),
        ("analyses.surfaces.n_points", 20, "an odd number, at least 3"),
        ("analyses.surfaces.n_points", 1, "an odd number, at least 3"),
        ("analyses.profiles.n_points", 100, "an odd number, at least 3"),
        ("analyses.planes.n_points", 4, "an odd number, at least 3"),
        ("analyses.trajectory.n_points", 4, "an odd number, at least 3"),
        ("analyses.trajectory.margin", -0.1, "a number, at least 0"),
        ("synthetic.n_points", 40, "an odd number, at least 3"),
        ("synthetic.shown", [1, 2], "three different whole numbers"),
        ("synthetic.shown", [41, 2, 3], "0 to 2n = 40"),
        ("synthetic.n_positive", [2, 50], "0 to 2n = 40"),
        ("synthetic.dimension_saddles", [41], "0 to 2n = 40"),
        ("synthetic.trace_saddles", [41], "0 to 2n = 40"),
        ("synthetic.dimensions", [1, 42], "1 to 2n + 1 = 41"),
        ("population.n_jobs", 5, "1 to 4, the members"),
        ("population.loss", "mean_squared_error", "cross_entropy"),
        ("population.factors", {}, "a mapping of at least one factor to its values"),
        ("population.factors.width", 8, "a list of different numbers"),
        ("claims.C1.expected_curvature", "inside", "a mapping of keys"),
        ("claims.C1.expected_curvature.side", "between", "above, below, inside"),
        ("claims.C1.expected_curvature.margin", -1, "a number, at least 0"),
        ("claims.C1.expected_curvature.confidence", 95, "a number between 0 and 1"),
        ("claims.C1.expected_curvature.correction", "holm", "bonferroni, none"),
        ("comparison.saddles", 0.1, "a mapping of keys"),
        ("comparison.saddles.relative", -1, "a number, at least 0"),
    ],
)
def test_wrong_value(tiny: dict[str, Any], key: str, value: Any, allowed: str) -> None:
    place, _, last = key.rpartition(".")
    at(tiny, place)[last] = value
    sentence = refused(tiny)
    assert sentence.startswith(f"key '{key}' is ")
    assert f"; allowed: {allowed}" in sentence


@pytest.mark.parametrize("configuration", [None, [], "text", 3])
def test_no_mapping_at_all(configuration: Any) -> None:
    sentence = refused(configuration)
    assert sentence == f"the configuration is {configuration!r}; allowed: a mapping of keys"


@pytest.mark.parametrize("name", ["my-net", "a.b", "", 8, True])
def test_name_of_a_network(tiny: dict[str, Any], name: Any) -> None:
    tiny["networks"][name] = tiny["networks"]["classifier"]
    expected = f"key 'networks' names {name!r}; allowed: letters, digits and _"
    assert refused(tiny) == expected


def test_long_values_are_cut(tiny: dict[str, Any]) -> None:
    tiny["analyses"]["surfaces"]["n_points"] = {"text": "x" * 10_000}
    assert refused(tiny).endswith("allowed: an odd number, at least 3")


# Parts that do not fit each other.


def unknown_network_data(c: dict[str, Any]) -> None:
    c["networks"]["classifier"]["data"] = "digts"


def unknown_population_data(c: dict[str, Any]) -> None:
    c["population"]["data"] = "digts"


def unknown_analyzed_network(c: dict[str, Any]) -> None:
    c["analyses"]["planes"]["networks"] = ["classifier", "resnet"]


def both(c: dict[str, Any]) -> None:
    c["networks"]["classifier"]["checkpoint"] = {"format": "safetensors", "file": "w.safetensors"}


def neither(c: dict[str, Any]) -> None:
    del c["networks"]["classifier"]["training"]


def trajectory_of_a_checkpoint(c: dict[str, Any]) -> None:
    neither(c)
    c["networks"]["classifier"]["checkpoint"] = {"format": "safetensors", "file": "w.safetensors"}


def trajectory_without_snapshots(c: dict[str, Any]) -> None:
    del c["networks"]["classifier"]["training"]["snapshots"]


def noisy_labels(c: dict[str, Any]) -> None:
    c["networks"]["classifier"]["training"]["label_noise"] = 0.1


def rounded_checkpoint(c: dict[str, Any]) -> None:
    trajectory_of_a_checkpoint(c)
    c["networks"]["classifier"]["checkpoint_precision"] = "float16"


def companion_and_population(c: dict[str, Any]) -> None:
    del c["synthetic"]
    c["companion"] = "demo"


def neither_companion_nor_synthetic(c: dict[str, Any]) -> None:
    del c["synthetic"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (companion_and_population, "key 'population' is not allowed beside 'companion'"),
        (neither_companion_nor_synthetic, "key 'synthetic' is missing, or the 'companion'"),
        (
            unknown_network_data,
            "key 'networks.classifier.data' names 'digts'; known: function, digits",
        ),
        (unknown_population_data, "key 'population.data' names 'digts'; known: function, digits"),
        (
            unknown_analyzed_network,
            "key 'analyses.planes.networks' names 'resnet'; known: approximator, classifier",
        ),
        (both, "key 'networks.classifier' needs either 'training' or 'checkpoint', and not both"),
        (noisy_labels, "key 'networks.classifier.training.label_noise' is for the population"),
        (rounded_checkpoint, "key 'networks.classifier.checkpoint_precision' needs 'training'"),
        (neither, "key 'networks.classifier' needs either 'training' or 'checkpoint'"),
        (trajectory_of_a_checkpoint, "key 'analyses.trajectory.networks' names 'classifier', "),
        (trajectory_without_snapshots, "give it 'networks.classifier.training.snapshots'"),
    ],
)
def test_parts_that_do_not_fit(
    tiny: dict[str, Any], change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    change(tiny)
    assert sentence in refused(tiny)


def test_companion_in_place_of_saddles_and_population(tiny: dict[str, Any]) -> None:
    companion_and_population(tiny)
    del tiny["population"]
    validate(tiny, SCHEMA, "tiny")


def test_checkpoint_in_place_of_training(tiny: dict[str, Any]) -> None:
    trajectory_of_a_checkpoint(tiny)
    tiny["analyses"]["trajectory"]["networks"] = []
    validate(tiny, SCHEMA, "tiny")
    checkpoint = tiny["networks"]["classifier"]["checkpoint"]
    checkpoint["path"] = "weights"
    assert refused(tiny) == (
        "unknown key 'networks.classifier.checkpoint.path'; "
        "allowed here: format, name, file, url, sha256, expected"
    )
    del checkpoint["path"]
    checkpoint["sha256"] = "abc"
    assert refused(tiny).endswith("allowed: 64 hexadecimal digits")
    del checkpoint["sha256"], checkpoint["format"]
    assert refused(tiny).startswith("key 'networks.classifier.checkpoint.format' is missing")


# Settings of one network.


def test_settings_of_an_analysis(tiny: dict[str, Any]) -> None:
    tiny["networks"]["classifier"]["overrides"] = {"surfaces": {"n_points": 7, "n_shards": 1}}
    validate(tiny, SCHEMA, "tiny")
    common = tiny["analyses"]["surfaces"]
    expected = {key: common[key] for key in ("random_radius", "hessian_radius")}
    own = analysis_settings(tiny, "surfaces", "classifier")
    assert own == expected | {"n_points": 7, "n_shards": 1}
    others = analysis_settings(tiny, "surfaces", "approximator")
    assert others == expected | {"n_points": 5, "n_shards": 2}
    assert analysis_settings(tiny, "planes", "classifier")["n_points"] == 3
    assert common["n_points"] == 5


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"surface": {}}, "unknown key 'networks.classifier.overrides.surface'; allowed here: eig"),
        (
            {"surfaces": {"points": 3}},
            "unknown key 'networks.classifier.overrides.surfaces.points'; allowed here: random_ra",
        ),
        # Which networks an analysis is done for is said in one place.
        (
            {"surfaces": {"networks": []}},
            "unknown key 'networks.classifier.overrides.surfaces.networks'; allowed here: ",
        ),
        (
            {"surfaces": {"n_points": 20}},
            "key 'networks.classifier.overrides.surfaces.n_points' is 20; allowed: an odd number",
        ),
        (
            {"eigenpairs": {"tolerance": "1e-3"}},
            "key 'networks.classifier.overrides.eigenpairs.tolerance' is '1e-3'; allowed: a numb",
        ),
        ({"surfaces": 3}, "key 'networks.classifier.overrides.surfaces' is 3; allowed: "),
        ([], "key 'networks.classifier.overrides' is []; allowed: a mapping of keys"),
    ],
)
def test_override_is_held_to_the_same_schema(
    tiny: dict[str, Any], overrides: Any, sentence: str
) -> None:
    tiny["networks"]["classifier"]["overrides"] = overrides
    assert refused(tiny).startswith(sentence)


# Rules and tolerances.


def test_rules_of_the_schema_are_the_known_ones() -> None:
    schema = _SCHEMA["properties"]["claims"]["properties"]
    allowed = [(claim, rule) for claim in schema for rule in schema[claim]["properties"]]
    assert allowed == list(claims.RULES)
    assert all(schema[claim]["required"] == list(schema[claim]["properties"]) for claim in schema)


def test_unknown_rule(tiny: dict[str, Any]) -> None:
    tiny["claims"]["C6"]["hidden_flatness"] = tiny["claims"]["C6"].pop("hidden_curvature")
    assert refused(tiny) == (
        "unknown key 'claims.C6.hidden_flatness'; allowed here: random_flatness, hidden_curvature"
    )


def compared_tables() -> set[str]:
    """The tables that the workflow makes, without those that are not compared."""
    text = "".join(path.read_text() for path in ROOT.glob("workflow/rules/*.smk"))
    listed = re.search(r"^TABLES = \((.*?)^\)", text, re.DOTALL | re.MULTILINE)
    assert listed is not None
    return set(re.findall(r"[a-z_]+", listed[1].split(".split")[0])) - comparison.NOT_COMPARED


def test_tolerances_are_for_the_tables_there_are(tiny: dict[str, Any]) -> None:
    pattern = _SCHEMA["properties"]["comparison"]["propertyNames"]["pattern"]
    named = re.search(r"\((.*?)\)", pattern)
    assert named is not None
    assert set(named[1].split("|")) == compared_tables()
    loose = {"relative": 0.1, "absolute": 0.0}
    tiny["comparison"]["surface_checks.surface_1e-01"] = loose
    validate(tiny, SCHEMA, "tiny")
    for typo in ("netwroks", "netwroks.trace", "cost", "networks."):
        tiny["comparison"][typo] = loose
        sentence = refused(tiny)
        assert sentence.startswith(f"key 'comparison' names '{typo}'; allowed: `table` or")
        del tiny["comparison"][typo]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_every_table_has_tolerances(path: Path) -> None:
    """Their lack would otherwise be found at the end of a run that may have taken hours."""
    stated = {key for key in yaml.safe_load(path.read_text())["comparison"] if "." not in key}
    assert stated >= compared_tables()


# Files.


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none.yaml cannot be read: No such file"):
        read(tmp_path / "none.yaml", SCHEMA)


def test_file_that_is_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("profile: [tiny\nseed: 1\n")
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path / "bad.yaml", SCHEMA)
    assert re.match(rf"{tmp_path}/bad.yaml is not YAML: .*line 2", str(caught.value))
    assert "\n" not in str(caught.value)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(ConfigurationError, match=r"empty.yaml: the configuration is None; allowed"):
        read(tmp_path / "empty.yaml", SCHEMA)


# An archive answers for the settings it was made with.


def archived(folder: Path, settings: dict[str, Any]) -> Path:
    (folder / "configuration.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_archive_answers_for_its_own_settings(tiny: dict[str, Any], tmp_path: Path) -> None:
    archive = archived(tmp_path, tiny)
    tiny |= {"source": "archive", "cache": "elsewhere"}
    tiny["claims"]["C8"]["lower_loss"]["threshold"] = 0.5
    tiny["comparison"]["networks"] = {"relative": 2.0, "absolute": 0.0}
    require_archived(tiny, archive, "mine.yaml")


@pytest.mark.parametrize("place", ["seed", "analyses.spectrum.n_steps", "networks.classifier.data"])
def test_archive_of_other_settings(tiny: dict[str, Any], tmp_path: Path, place: str) -> None:
    archive = archived(tmp_path, tiny)
    parent, _, key = place.rpartition(".")
    before = at(tiny, place)
    at(tiny, parent)[key] = "changed"
    sentence = (
        f"mine.yaml: key '{place}' is 'changed', in {tmp_path}/configuration.yaml {before!r}: "
    )
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        require_archived(tiny, archive, "mine.yaml")
    del at(tiny, parent)[key]
    with pytest.raises(ConfigurationError, match=f"key '{place}' is absent, "):
        require_archived(tiny, archive, "mine.yaml")


def test_archive_without_its_settings(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"configuration.yaml cannot be read: No such file"
    ):
        require_archived(tiny, tmp_path, "mine.yaml")
