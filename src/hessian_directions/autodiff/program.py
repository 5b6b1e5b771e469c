"""A user's network as a function of its parameters: a private copy, in evaluation mode.

What a copy cannot be a faithful copy of is refused here; what it computes is compared with the
network by the self-test.
"""

from __future__ import annotations

import copy
import dis
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hessian_directions.autodiff.copies import copied, tensors_in, users_attributes
from hessian_directions.errors import ModelError, first_line

Place = tuple[str, str]

# Attributes of every module that are not what it keeps of a pass.
_OF_MODULES = vars(nn.Module()).keys() - {"_buffers", "training"}


class Program:
    """The network at parameters that are put in from outside.

    Parameters, and what the modules keep of a pass (activations, caches), stay in place until
    others come or `restore` is called: what is computed again in a backward pass (activation
    checkpointing) finds them. Every pass starts from the modules as they were given.

    Args:
        model: A private copy in evaluation mode (`private_copy`); copied once more.
        names: The parameters that are put in, in the model's order.

    Attributes:
        acts_in_place: Whether modules change their inputs where the user asked them to, from the next
            parameters on; else they never do.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.module = copied(model)
        self._original = dict(self.module.named_parameters())
        of_users = {name: users_attributes(self._original[name]) for name in names}
        self._of_users = {name: own for name, own in of_users.items() if own}
        name_of = {id(self._original[name]): name for name in names}
        self._places = [
            (module, attribute, name_of[id(parameter)])
            for module in self.module.modules()
            for attribute, parameter in module._parameters.items()
            if id(parameter) in name_of
        ]
        self._recurrent = [m for m in self.module.modules() if isinstance(m, nn.RNNBase)]
        self._acting_in_place = [
            m for m in self.module.modules() if getattr(m, "inplace", False) is True
        ]
        self._attributes = [(module, *_attributes(module)) for module in self.module.modules()]
        self.acts_in_place = False

    def put(self, parameters: Mapping[str, Tensor]) -> None:
        """Put parameters into the module, which has forgotten all earlier passes."""
        self._forget()
        for module, attribute, name in self._places:
            module._parameters[attribute] = parameters[name]  # type: ignore[assignment]
        for name, own in self._of_users.items():
            vars(parameters[name]).update(own)
        for module in self._recurrent:  # these keep a list of their own
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]

    def restore(self) -> None:
        """Let go of the parameters that were put in, and of what the modules kept of a pass."""
        self.put(self._original)

    def places(self) -> dict[int, Place]:
        """Where each tensor that the network holds now stands, by its identity."""
        return {
            id(tensor): (path, attribute)
            for path, module in self.module.named_modules(remove_duplicate=False)
            for attribute, tensor in [*module._parameters.items(), *module._buffers.items()]
            if tensor is not None
        }

    def tensor(self, place: Place) -> Tensor:
        """What stands at a place now."""
        return getattr(self.module.get_submodule(place[0]), place[1])

    def _forget(self) -> None:
        for module, attributes, containers in self._attributes:
            now = vars(module)
            for name in now.keys() - attributes.keys() - _OF_MODULES:
                del now[name]
            now.update(attributes)
            for container, contents in containers:
                if isinstance(container, list):
                    container[:] = contents
                else:
                    container.clear()
                    container.update(contents)
        for module in self._acting_in_place:
            module.inplace = self.acts_in_place  # type: ignore[assignment]


def _attributes(module: nn.Module) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """What a module holds beside parameters, modules and hooks, and what its containers hold."""
    attributes = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
    held = [value for value in attributes.values() if isinstance(value, list | dict | set)]
    return attributes, [(container, copy.copy(container)) for container in held]


def private_copy(model: nn.Module) -> nn.Module:
    """The network without wrappers for devices and compilers, copied, in evaluation mode.

    Raises:
        ModelError: It cannot be copied, or a copy would go on reading the original.
    """
    for name, module in model.named_modules():
        hooked = module._forward_hooks or module._forward_pre_hooks
        if hooked and _unwrapped(module) is not module:
            raise ModelError(  # PyTorch copies a compiled module without them
                f"{_described(name)} has hooks on a wrapper: register them on the module inside."
            )
    model = _unwrapped(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{_described(name)} is scripted: give the module that it came from.")
        if getattr(module, "max_norm", None) is not None:
            raise ModelError(
                f"{_described(name)} has max_norm: it changes its own weights in every pass."
            )
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise ModelError("The network has parameters that have no shape yet: call it once.")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError("The network has parameters without numbers (meta): load its weights.")
    _refuse_overlaps(model)
    _refuse_references(model)
    twin = copied(model)
    for module in twin.modules():
        module._compiled_call_impl = None
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _unwrapped(child)
    for part in filter(_has_compiled_forward, model.modules()):
        del twin.get_submodule(path_in_copy(model, part)).forward
    _evaluate(twin, model)
    return twin


def _evaluate(twin: nn.Module, model: nn.Module) -> None:
    """Put a copy of a network into evaluation mode.

    That `train` and `eval` return nothing is common. Where they do something else (train a network,
    for instance) they fail, or leave another network.
    """
    try:
        twin.train()  # here networks drop what they keep of their weights (attention biases)
        twin.eval()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            "The network's methods train() and eval() do not put it into evaluation mode "
            f"({first_line(error)}): give methods that do something else another name."
        ) from error
    left, given = list(twin.parameters()), list(model.parameters())
    if [p.requires_grad for p in left] != [p.requires_grad for p in given]:
        raise ModelError(
            "The network's methods train() and eval() freeze other parameters than are frozen now: "
            "call both before."
        )
    if not all(_same(p, q) for p, q in zip(left, given, strict=True) if q.requires_grad):
        raise ModelError(
            "The network's methods train() and eval() change its parameters: give methods that do "
            "something else than to put it into a mode another name."
        )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def path_in_copy(model: nn.Module, part: nn.Module) -> str:
    """Where a part of a network stands in its private copy, which has no wrappers."""
    (path, *_) = (name for name, module in model.named_modules() if module is part)
    kept, at = [], model
    for name in path.split(".") if path else ():
        if _unwrapped(at) is at:
            kept.append(name)
        at = at.get_submodule(name)
    return ".".join(kept)


def misleading_option(model: nn.Module) -> str | None:
    """What makes PyTorch's gradient of a network another than the slope of its loss, by design."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.requires_grad:
            # A bag leaves padding out of its results, too.
            padded = isinstance(module, nn.Embedding) and module.padding_idx is not None
            if padded or module.scale_grad_by_freq:
                option = "padding_idx" if padded else "scale_grad_by_freq"
                return f"{_described(name)} has {option}"
    return None


def references(function: Any, owned: set[int]) -> bool:
    """Whether a function reaches any of these objects: through its closure, defaults or globals, or,
    one level deep, through what these hold under a name that the function uses.
    """
    if isinstance(function, partial):
        held = [*function.args, *function.keywords.values()]
        return any(_is_or_reaches(value, owned) for value in held) or references(
            function.func, owned
        )
    if isinstance(function, nn.Module):  # itself, it may well be a part of the network
        parts = [*function.children(), *function.parameters()]
        parts += [part for _, part in _attributes_of(function)]
        return any(id(part) in owned for part in parts) or references(
            getattr(type(function), "forward", None), owned
        )
    if isinstance(function, MethodType):
        names = _names(function.__func__)
        # A method of the network itself is bound to the copy (`losses.OwnMethod`).
        reaches = id(function.__self__) not in owned and _is_or_reaches(
            function.__self__, owned, names
        )
        return reaches or references(function.__func__, owned)
    if not isinstance(function, FunctionType):
        call = vars(type(function)).get("__call__")
        return isinstance(call, FunctionType) and references(MethodType(call, function), owned)
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    names = _names(function)
    read = [function.__globals__[n] for n in _globals_of(function) if n in function.__globals__]
    held = [*cells, *read, *(function.__defaults__ or ())]
    return any(_is_or_reaches(value, owned, names) for value in held)


def owned_by(model: nn.Module) -> set[int]:
    """Identities of the network's modules that have parameters, and of these."""
    modules = {id(m) for m in model.modules() if next(m.parameters(), None) is not None}
    return modules | {id(p) for p in model.parameters()}


def keepers(model: nn.Module) -> set[int]:
    """Identities of what else keeps something of a pass: modules that hold tensors, and objects whose
    methods are hooks.
    """
    modules = list(model.modules())
    own = {id(m) for m in modules if next(tensors_in(_kept(m)), None) is not None}
    hooks = [
        hook
        for m in modules
        for kind in (m._forward_hooks, m._forward_pre_hooks)
        for hook in kind.values()
    ]
    return own | {id(hook.__self__) for hook in hooks if isinstance(hook, MethodType)}


def _kept(module: nn.Module) -> list[Any]:
    """The values of its attributes that are neither parameters, buffers, modules nor hooks."""
    return [v for name, v in vars(module).items() if name not in _OF_MODULES | {"_buffers"}]


def _names(function: Any) -> set[str]:
    """All names that a function of Python uses, of attributes too."""
    if not isinstance(function, FunctionType):
        return set()
    return {name for code in _codes(function.__code__) for name in code.co_names}


def _globals_of(function: FunctionType) -> set[str]:
    """The names that it looks up outside; `self.model` is not the script's `model`."""
    return {
        step.argval
        for code in _codes(function.__code__)
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }


def _is_or_reaches(value: Any, owned: set[int], names: Set[str] = frozenset()) -> bool:
    if id(value) in owned:
        return True
    if isinstance(value, nn.Module):
        parts = [*value.modules(), *value.parameters()]
        return any(id(part) in owned for part in parts)
    if isinstance(value, Mapping | list | tuple | set) and not hasattr(value, "_fields"):
        held = value.values() if isinstance(value, Mapping) else value
        return any(id(part) in owned for part in held)
    if isinstance(value, FunctionType | MethodType | partial):
        # A function that closures refer to, one level deep: what is global is not searched on.
        inner = value.__closure__ if isinstance(value, FunctionType) else ()
        cells = [cell.cell_contents for cell in inner or () if _is_filled(cell)]
        bound = [value.__self__] if isinstance(value, MethodType) else []
        return any(id(part) in owned for part in cells + bound)
    if isinstance(value, type | ModuleType):
        return False
    return any(id(part) in owned for name, part in _attributes_of(value) if name in names)


def _attributes_of(value: Any) -> Iterable[tuple[str, Any]]:
    """What an object or a named tuple holds, and what dictionaries in it do, under their name."""
    held = value._asdict() if hasattr(value, "_fields") else getattr(value, "__dict__", {})
    for name, part in held.items():
        yield name, part
        for inner in part.values() if isinstance(part, dict) else ():
            yield name, inner


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _refuse_overlaps(model: nn.Module) -> None:
    """Two parameters in the same memory are one number that would be counted twice."""
    places: dict[Any, list[tuple[str, Tensor]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.layout == torch.strided:
            memory = parameter.untyped_storage()
            places.setdefault(memory._cdata, []).append((name, parameter))
    for shared in places.values():
        # In the order of memory; flat vectors of which parameters are parts are the common case.
        ordered = sorted(shared, key=lambda named: named[1].data_ptr())
        spans = [(p.data_ptr(), p.data_ptr() + _span(p) * p.element_size()) for _, p in ordered]
        if all(before[1] <= after[0] for before, after in itertools.pairwise(spans)):
            continue
        for (a, first), (b, second) in itertools.combinations(ordered, 2):
            if bool(torch.isin(_addresses(first), _addresses(second)).any()):
                raise ModelError(
                    f"The parameters {a!r} and {b!r} share memory without being one parameter: "
                    "tie them by assigning the one to the other."
                )


def _span(parameter: Tensor) -> int:
    """How many numbers lie between its first and its last, both included."""
    steps = zip(parameter.shape, parameter.stride(), strict=True)
    return 1 + sum((int(n) - 1) * int(step) for n, step in steps)


def _addresses(parameter: Tensor) -> Tensor:
    """Where in its memory each of its numbers begins [bytes]."""
    size, start = parameter.element_size(), parameter.data_ptr()
    numbers = torch.arange(start, start + _span(parameter) * size, size, device="cpu")
    return numbers.as_strided(parameter.shape, parameter.stride()).reshape(-1)


def _refuse_references(model: nn.Module) -> None:
    """Functions are not copied: one that refers to the network would read the user's weights."""
    owned = owned_by(model)
    for name, module in model.named_modules():
        if _unwrapped(module) is not module:  # its wrapper refers to it, and is taken off
            continue
        taken_off = {"_compiled_call_impl", *(["forward"] if _has_compiled_forward(module) else [])}
        for attribute, value in vars(module).items():
            if attribute in taken_off:
                continue
            functions = value.values() if isinstance(value, dict) else [value]
            for function in functions:
                if isinstance(function, FunctionType | partial) and references(function, owned):
                    raise ModelError(
                        f"{_described(name)} holds a function ({attribute}) that refers to the "
                        "network itself, of which a copy is studied: make it a method."
                    )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers of PyTorch's that change nothing about its outputs."""
    while True:
        if _is_compiled(model):
            model = model._orig_mod  # type: ignore[assignment]
        elif _is_parallel(model):
            model = model.module  # type: ignore[assignment]
        else:
            return model


def _is_compiled(model: nn.Module) -> bool:
    # Where nobody has imported this part, which takes seconds, nothing is compiled. What has an
    # `_orig_mod` is no sign: a wrapper that computes something may lend it from the one inside.
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)


def _has_compiled_forward(module: nn.Module) -> bool:
    """Whether its own forward was replaced by itself, compiled (`m.forward = torch.compile(m.forward)`)."""
    forward: Any = vars(module).get("forward")
    if not hasattr(forward, "_torchdynamo_orig_callable"):
        return False
    own = inspect.unwrap(forward)
    return getattr(own, "__self__", None) is module and own.__func__ is type(module).forward


def _is_parallel(model: nn.Module) -> bool:
    """Whether it is a wrapper for several devices whose `forward` is PyTorch's."""
    kinds = nn.DataParallel, nn.parallel.DistributedDataParallel
    own = "forward" in vars(model)
    return not own and any(
        isinstance(model, kind) and type(model).forward is kind.forward for kind in kinds
    )


def convention(module: nn.Module) -> Callable[[Any], Any]:
    """The network as a function of its inputs: a tuple or a dictionary of them becomes the
    arguments that its `forward` names, or is handed over whole where that takes one alone (beside
    switches, which no array is meant for).
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    required = [p for p in parameters if p.default is p.empty and p.kind in (0, 1)]
    positional = [p for p in parameters if p.kind in (0, 1)]
    names = {p.name for p in parameters if p.kind != p.VAR_POSITIONAL}
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters)
    several = len(positional) > 1 or any(p.kind == p.VAR_POSITIONAL for p in parameters)

    def call(inputs: Any) -> Any:
        if isinstance(inputs, dict) and (inputs.keys() <= names or (anything and not required)):
            return module(**inputs)
        switched = isinstance(inputs, tuple) and any(
            isinstance(p.default, bool | str) for p in positional[: len(inputs)]
        )
        if isinstance(inputs, tuple) and several and not switched:
            return module(*inputs)
        return module(inputs)

    return call


def _described(name: str) -> str:
    return f"The network's {name!r}" if name else "The network"
