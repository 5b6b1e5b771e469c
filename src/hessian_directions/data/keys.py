"""What the keys of data can be, for all kinds of them: types that say so in a sentence."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from hessian_directions.settings import Allowed, Count, Natural, Number, Several

Named = Annotated[str, Field(min_length=1), Allowed("a text that is not empty")]
# scikit-learn's splits take no other numbers.
Seed = Annotated[int, Field(ge=0, lt=2**32), Allowed("a whole number from 0 to 4294967295")]
Classes = Annotated[Several, Allowed("a whole number of classes, at least 2")]
Ranges = Annotated[Sequence[Sequence[int]], Allowed("a list of ranges [start, stop]")]
Size = Annotated[
    Count | Annotated[Sequence[Count], Field(min_length=2, max_length=2)],
    Allowed("a whole number of pixels, at least 1, or two of them, [height, width]"),
]
Colours = Annotated[Literal[1, 3], Allowed("1 (grey) or 3 (colour)")]
ChannelAxis = Annotated[Literal["first", "last"], Allowed("first or last")]
Options = Annotated[Mapping[str, Any], Allowed("a mapping of keywords to values")]
Names = Annotated[Mapping[str, Named], Allowed("a mapping of keys to names")]
# A folder may be called 7; what else YAML reads, such as yes for true, may be written in other ways.
_Class = Named | int
ClassNames = Annotated[
    Named
    | Annotated[Sequence[_Class], Field(min_length=1)]
    | Annotated[Mapping[_Class, Natural], Field(min_length=1)],
    Allowed(
        "a list of names, a mapping of names to numbers, or the path of a text file with a name in "
        "each line (YAML reads yes, no, on and off as no texts: put such names into quotes)"
    ),
]
Transform = Annotated[
    Named | Mapping[str, Any], Allowed("a name, or a mapping of the keys name and options")
]
Statistics = Annotated[
    Literal["train", "none"] | Mapping[Literal["mean", "deviation"], Number | Sequence[Number]],
    Allowed(
        "train, none, or a mapping of the keys mean and deviation to a number each, or one for each "
        "channel"
    ),
]
