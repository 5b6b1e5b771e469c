"""Typed settings: every key has a default, a unit and a sentence, and refuses what it cannot be.

Nothing here, and nothing that an analysis imports at its top, imports torch: Snakemake reads the
settings of all analyses each time it starts.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

T = TypeVar("T")


class Settings(BaseModel):
    """The settings of one part of a configuration; no other keys are allowed, nothing is cast."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
