"""A block of a network's parameters: those that θ is made of, while all others are constant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import Tensor, nn

from hessian_directions.errors import ModelError

Block = str | Iterable[str | Tensor] | Callable[[str, Tensor], bool]


def by_name(model: nn.Module, block: Block) -> Block:
    """The block with the names of a model's parameters in place of themselves, which have no copies."""
    if isinstance(block, str) or not isinstance(block, Iterable):
        return block
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names.get(id(part), part) for part in block]


def freeze_others(model: nn.Module, block: Block) -> None:
    """Freeze the trainable parameters outside a block.

    Args:
        model: Changed in place.
        block: A name, a shell pattern of names ("layer4.*"), a list of these, or a function
            (name, parameter) → bool. A shared parameter is in the block by any of its names.

    Raises:
        ModelError: A name or pattern matches no trainable parameter, or the function chooses none.
    """
    named = [(n, p) for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    if not isinstance(block, str | Iterable) and not callable(block):
        raise ModelError(f"parameters: {block!r} is no name, list of names or function.")
    if callable(block):
        kept = [parameter for name, parameter in named if block(name, parameter)]
        if not kept:
            raise _nothing("the function", named)
    else:
        kept = []
        for pattern in [block] if isinstance(block, str) else list(block):
            if not isinstance(pattern, str):
                kind = type(pattern).__name__
                raise ModelError(f"parameters: a {kind} is no name or parameter of this network.")
            # Names that were taken from a wrapper of the network, which is off here.
            plain = pattern.removeprefix("module.").replace("_orig_mod.", "")
            found = _matching(named, pattern) or _matching(named, plain)
            if not found:
                raise _nothing(repr(pattern), named)
            kept += found
    in_block = {id(parameter) for parameter in kept}
    for _, parameter in named:
        parameter.requires_grad_(id(parameter) in in_block)


def _matching(named: list[tuple[str, nn.Parameter]], pattern: str) -> list[nn.Parameter]:
    return [parameter for name, parameter in named if fnmatchcase(name, pattern)]


def _nothing(what: str, named: list[tuple[str, nn.Parameter]]) -> ModelError:
    some = [name for name, _ in named]
    if len(some) > 4:
        some = [*some[:2], "…", *some[-2:]]
    return ModelError(
        f"parameters: {what} chooses none of the trainable parameters ({', '.join(some)})."
    )
