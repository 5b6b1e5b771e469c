"""Copies of users' modules: with all tensors and modules of their own.

What cannot be copied and holds neither (a lock, an open file, a logger, a module of Python) is shared
with the original.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hessian_directions.errors import ModelError, first_line


def copied(module: nn.Module, what: str = "The network") -> nn.Module:
    """A copy of a module, whose parameters keep their attributes.

    Raises:
        ModelError: It holds something that cannot be copied and that tensors or modules are in.
    """
    # What was computed and stored (by weight_norm, a hook, a cache) cannot be copied with its graph.
    computed = {id(t): t.detach().clone() for t in _of_modules(module) if not t.is_leaf}
    try:
        return _copied(module, dict(computed))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:  # whatever a part of a network raises when it is copied or pickled
        known = {id(part): part for part in (*module.modules(), *_of_modules(module))}
        shared: dict[int, Any] = {}
    try:
        shared = _shared(module, known)
        return _copied(module, computed | shared)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        name, reason = _culprit(module, known | shared) or ("", error)
        where = f" with its attribute {name!r}" if name else ""
        raise ModelError(f"{what} cannot be copied{where}: {first_line(reason)}.") from error


def users_attributes(parameter: Tensor) -> dict[str, Any]:
    """What users set on a parameter, as schemes of scaling do, for its network to read.

    PyTorch copies parameters without. What was computed with a graph is left out: it would not
    follow the weights that it was computed from.
    """
    own = vars(parameter)
    if "_is_param" in own:  # a tensor of a class of its own, whose numbers are in its attributes
        return {}
    return {
        name: value for name, value in own.items() if all(t.is_leaf for t in tensors_in([value]))
    }


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values, and in lists, tuples, sets and dictionaries of them."""
    waiting, seen = list(values), set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | set | dict) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    for part in module.modules():
        # One that forwards what it lacks (__getattr__) to a part of its own is replaced by a copy of
        # that part.
        own = getattr(part, "__deepcopy__", None)
        if getattr(own, "__self__", part) is not part:
            raise ModelError(f"{type(part).__name__} lends the __deepcopy__ of a part of it")
    twin = copy.deepcopy(module, memo)
    if [name for name, _ in twin.named_parameters()] != [
        name for name, _ in module.named_parameters()
    ]:
        raise ModelError("a copy of it has other parameters")
    twins = dict(twin.named_parameters())
    for name, parameter in module.named_parameters():
        if kept := users_attributes(parameter):
            vars(twins[name]).update(copy.deepcopy(kept, memo))
    return twin


def _of_modules(module: nn.Module) -> Iterator[Tensor]:
    return tensors_in(value for part in module.modules() for value in vars(part).values())


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """All attributes of modules and parameters, by name."""
    for path, part in (*module.named_modules(), *module.named_parameters()):
        own = users_attributes(part) if isinstance(part, Tensor) else vars(part)
        for name, value in own.items():
            yield f"{path}.{name}".lstrip("."), value


def _shared(module: nn.Module, known: dict[int, Any]) -> dict[int, Any]:
    """The largest objects that cannot be copied and hold neither tensors nor modules, by identity.

    Whole ones, since a queue with a new list but the lock of the old one would hang; but no
    collections of them, which networks change.

    Args:
        known: Tensors and modules, with which nothing is wrong.
    """
    shared: dict[int, Any] = {}
    waiting, seen = [value for _, value in _attributes(module)], set()
    memo = dict(known)
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not _failure(value, memo):
            continue
        seen.add(id(value))
        memo = dict(known)  # the other one has parts of what failed
        if isinstance(value, list | tuple | set | dict) or _holds_tensors(value):
            waiting.extend(_parts(value))
        else:
            shared[id(value)] = value
    return shared


def _culprit(module: nn.Module, known: dict[int, Any]) -> tuple[str, Exception] | None:
    """The first attribute that cannot be copied, and why."""
    for name, value in _attributes(module):
        if error := _failure(value, dict(known)):
            return name, error
    return None


def _failure(value: Any, memo: dict[int, Any]) -> Exception | None:
    try:
        copy.deepcopy(value, memo)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        return error
    return None


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    return list(getattr(value, "__dict__", {}).values())


def _holds_tensors(value: Any) -> bool:
    """Whether a tensor or a module can be reached from an object, however deep it lies."""
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor | nn.Module):
            return True
        if id(part) in seen or isinstance(part, type | ModuleType | CodeType):
            continue
        seen.add(id(part))
        if isinstance(part, FunctionType):  # without its globals, which are everything
            waiting.extend(gc.get_referents(*(part.__closure__ or ()), part.__defaults__))
        else:
            waiting.extend(gc.get_referents(part))
    return False
