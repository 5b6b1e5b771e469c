"""Typed settings: every key has a default, a unit and a sentence, and refuses what it cannot be.

Nothing here, and nothing that an analysis imports at its top, imports torch: Snakemake reads the
settings of all analyses each time it starts.
"""

import inspect
import math
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError

from hessian_directions.errors import ConfigurationError

T = TypeVar("T")


class Settings(BaseModel):
    """The settings of one part of a configuration; no other keys are allowed, nothing is cast."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Allowed:
    """What a value can be, in the words of an error."""

    text: str


def setting(
    default: Any, sentence: str, *, unit: str | None = None, stage: str | None = None
) -> Any:
    """A key of the settings.

    Args:
        default: Its value where a configuration says nothing; `...` where it has to.
        sentence: What it is.
        unit: Of the value, where it has one.
        stage: "parts" for keys that only list which parts or shards there are, "gather" for those
            that only the gathering of shards reads: another value leaves what is there as it is.
    """
    return Field(
        default, description=sentence, json_schema_extra={"unit": unit or "", "stage": stage or ""}
    )


def stage_of(settings: type[Settings], key: str) -> str:
    """The stage of a key, see `setting`."""
    extra = settings.model_fields[key].json_schema_extra
    return str(extra["stage"]) if isinstance(extra, dict) else ""


def all_different(values: list[Any]) -> list[Any]:
    if len({repr(value) for value in values}) < len(values):
        raise ValueError("the values are not all different")
    return values


def all_among(values: list[str], known: tuple[str, ...]) -> list[str]:
    """The values, which must be different and among those that are known."""
    if unknown := [value for value in values if value not in known]:
        raise ValueError(f"{unknown[0]!r} is unknown")
    return all_different(values)


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("the number is even")
    return value


Natural = Annotated[int, Field(ge=0), Allowed("a whole number, at least 0")]
Count = Annotated[int, Field(ge=1), Allowed("a whole number, at least 1")]
Several = Annotated[int, Field(ge=2), Allowed("a whole number, at least 2")]
Odd = Annotated[int, Field(ge=3), AfterValidator(_odd), Allowed("an odd number, at least 3")]
Number = Annotated[float, Field(allow_inf_nan=False), Allowed("a number")]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), Allowed("a number, at least 0")]
Positive = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False),
    Allowed("a number above 0 (YAML reads 1.0e-3 as a number, 1e-3 as a text)"),
]
Share = Annotated[float, Field(gt=0, lt=1), Allowed("a number between 0 and 1")]
Text = Annotated[str, Allowed("a text")]
Flag = Annotated[bool, Allowed("true or false")]
# One value or more, no two of them alike.
Different = Annotated[list[T], Field(min_length=1), AfterValidator(all_different)]
Counts = Annotated[Different[Count], Allowed("a list of different whole numbers, at least 1")]
Naturals = Annotated[Different[Natural], Allowed("a list of different whole numbers")]
Positives = Annotated[Different[Positive], Allowed("a list of different numbers above 0")]


def require(holds: bool, key: str, allowed: str) -> None:
    """For keys that have to fit each other: an error that names the key and what is allowed."""
    if not holds:
        raise PydanticCustomError("misfit", "{allowed}", {"key": key, "allowed": allowed})


def require_shards(n_shards: int | None, n: int, together: int) -> None:
    """For n parts that are shared out over shards in groups of so many: none must stay empty."""
    n_groups = math.ceil(n / together)
    require((n_shards or 1) <= n_groups, "n_shards", f"1 to {n_groups}, the groups of {together}")


def largest_shard(n_shards: int | None, n: int, together: int) -> int:
    """How many of these parts are in the first shard, which has most."""
    return min(n, together * math.ceil(math.ceil(n / together) / (n_shards or 1)))


class Model(Settings):
    """A network to be built."""

    name: Text = setting(
        ..., "mlp, resnet, densenet, timm:NAME, torchvision:NAME or package.module:function"
    )
    options: dict[str, Any] = setting({}, "keyword arguments of the network")


def of_signatures(*functions: Callable[..., Any], without: Iterable[str] = ()) -> type[Settings]:
    """The keywords of some functions as settings, but for those named in `without`.

    Their sentences are those of the functions' docstrings, `Args:`.
    """
    keys: dict[str, Any] = {}
    for function in functions:
        hints, said = typing.get_type_hints(function, include_extras=True), _arguments(function)
        for key, parameter in inspect.signature(function).parameters.items():
            if key not in without and parameter.kind != parameter.VAR_KEYWORD:
                default = ... if parameter.default is parameter.empty else parameter.default
                keys[key] = hints[key], setting(default, said.get(key, ""))
    return create_model(functions[0].__name__, __base__=Settings, **keys)


def _arguments(function: Callable[..., Any]) -> dict[str, str]:
    """The sentences of a docstring's `Args:`, by name."""
    said: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in (inspect.getdoc(function) or "").splitlines():
        if line == "Args:":
            inside = True
        elif inside and (start := re.match(r"    (\w[\w, ]*): (.*)", line)):
            names = [name.strip() for name in start[1].split(",")]
            said |= dict.fromkeys(names, start[2])
        elif inside and line.startswith("     "):
            said |= {name: f"{said[name]} {line.strip()}" for name in names}
        elif line and not line.startswith(" "):
            inside = False
    return said


# One sentence for each mistake.


def checked(model: type[S], values: Any, *place: str, name: str = "") -> S:
    """The settings; ConfigurationError with the first mistake in them.

    `place` are the keys that lead to them in the configuration that errors call `name`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        mistakes = error.errors()
        # A mistyped key is unknown, and the one that was meant is missing: the typo comes first.
        mistakes.sort(key=lambda mistake: mistake["type"] != "extra_forbidden")
        sentence = _sentence(model, values, mistakes, place)
        raise ConfigurationError(f"{name}: {sentence}" if name else sentence) from None


def unknown(keys: Iterable[str], known: Iterable[str]) -> str:
    """The sentence about keys that are not among those that are known."""
    return f"unknown key {_quoted(keys)}; allowed here: {', '.join(known)}"


def _sentence(
    model: type[Settings], values: Any, mistakes: list[Any], place: tuple[str, ...]
) -> str:
    def key_of(parts: Iterable[Any]) -> str:
        return ".".join((*place, *map(str, parts)))

    first = mistakes[0]
    location = [part for part in first["loc"] if part != "[key]"]
    if first["type"] in ("extra_forbidden", "missing"):
        inside = location[:-1]
        alike = [
            key_of(mistake["loc"])
            for mistake in mistakes
            if mistake["type"] == first["type"] and list(mistake["loc"][:-1]) == inside
        ]
        _, annotation = _without_branches(model, map(str, inside))
        known = next(filter(_is_model, _options(annotation))).model_fields
        if first["type"] == "extra_forbidden":
            return unknown(alike, known)
        what = str(known[str(location[-1])].description).split(". ")[0].removesuffix(".")
        return f"key {_quoted(alike)} is missing; it is {what[:1].lower()}{what[1:]}"
    if first["type"] == "invalid_key":
        key = key_of(location[:-1]) or "the configuration"
        return f"'{key}' has the key {first['input']!r}; allowed: a text"
    if first["type"] == "misfit":
        key, allowed = first["ctx"]["key"], first["ctx"]["allowed"]
        value = first["input"].get(key) if isinstance(first["input"], dict) else ""
        return f"key '{key_of([*location, key])}' is {reprlib.repr(value)}; allowed: {allowed}"
    is_key = "[key]" in first["loc"]
    keys, annotation = _without_branches(model, location[:-1] if is_key else location)
    verb, wrong = "is", values
    for key in keys:
        wrong = wrong[key]
    mapping = next((o for o in _options(annotation) if typing.get_origin(o) is dict), None)
    if is_key and mapping is not None:
        verb, wrong, annotation = "names", first["input"], typing.get_args(mapping)[0]
    subject = f"key '{key}'" if (key := key_of(keys)) else "the configuration"
    return f"{subject} {verb} {reprlib.repr(wrong)}; allowed: {described(annotation)}"


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
            field = option.model_fields[key]
            return (
                Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            )
        if typing.get_origin(option) is dict:
            return typing.get_args(option)[1]
    return None


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)


def _options(annotation: Any) -> Iterator[Any]:
    """What a value may be: itself, or the members of a union, without Annotated."""
    if typing.get_origin(annotation) is Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def described(annotation: Any) -> str:
    """What a value of this type can be, in words."""
    if typing.get_origin(annotation) is Annotated:
        inner, *items = typing.get_args(annotation)
        said = (item.text for item in items if isinstance(item, Allowed))
        return next(said, None) or described(inner)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        *others, last = [described(option) for option in typing.get_args(annotation)]
        return f"{', '.join(others)} or {last}" if others else last
    if typing.get_origin(annotation) is Literal:
        return ", ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) is dict or annotation is dict or _is_model(annotation):
        return "a mapping of keys"
    return {str: "a text", type(None): "null"}.get(annotation, "another value")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
