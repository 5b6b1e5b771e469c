"""The loss as PyTorch computes it: the user's network, run eagerly over whole samples.

Nothing here is shared with the ways in which an objective computes: no function mode, no parameters
put in from outside, no batches, no directions, no layout of memory, and on a CPU none of oneDNN's
kernels. Derivatives are `torch.autograd.grad`'s.
"""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from hessian_directions.autodiff.copies import copied
from hessian_directions.autodiff.precision import of_kind
from hessian_directions.autodiff.watching import Watching
from hessian_directions.cost import Cost
from hessian_directions.errors import ModelError

# How PyTorch's operations whose slope jumps are named, without underscores.
KINKS = (
    *("abs", "max", "min", "amax", "amin", "clamp", "threshold", "adaptivemaxpool", "multimargin"),
    *("relu", "leakyrelu", "prelu", "rrelu", "hardtanh", "hardsigmoid", "hardswish"),
    *("hardshrink", "softshrink", "multilabelmargin", "fmax", "fmin", "renorm", "linalgsvd"),
    "fractionalmaxpool",
)
# Functions of numbers whose results jump, so that what is computed with them may have a kink.
_JUMPING = """
    gt ge lt le greater greater_equal less less_equal sign sgn signbit heaviside copysign
    round floor ceil trunc fix frac fmod remainder __mod__ floor_divide __floordiv__
    argmax argmin argsort sort msort topk kthvalue median nanmedian mode quantile nanquantile
    cummax cummin nonzero bucketize searchsorted aminmax atan2 arctan2 angle
"""
JUMPS = frozenset(_JUMPING.split())
# Of results that are no real numbers these tell nothing: pivots, ranks and states of other functions
# that are smooth, and the places of maxima, which are kinks by their name.
_NO_JUMPS = ("linalg", "lu", "cudnn", "miopen", "maxpool", "adaptivemaxpool", "embeddingbag")
# Functions that ask whether a number is one, and those that make an array of NumPy of numbers.
_GUARDS = {"isnan", "isinf", "isposinf", "isneginf", "isfinite", "isreal", "nan_to_num"}
_TO_NUMPY = {"numpy", "tolist", "__array__", "__dlpack__"}


class FirstPass(NamedTuple):
    """What a network is seen to do in one pass."""

    value: float  # L(θ)
    changes_its_parameters: bool  # whether it leaves other parameters than it found
    changes_its_buffers: bool  # the same of buffers and of other tensors that it holds
    # The lowest precision that numbers are cast to on their way through it, or that the loss has.
    rounds_to: torch.dtype
    # The operations between parameters and loss whose slope jumps, by name, and `jumps`.
    kinks: list[str]
    # Those of which nothing in the graph tells where: results that jump as the parameters move, and
    # operations with kinks that no gradient goes through.
    jumps: list[str]
    reads_numbers: bool  # whether it turns tensors into numbers, which it may branch on


class Referee:
    """L(θ) and ∇L(θ) over a few samples, θ flat in the order of the trainable parameters.

    Args:
        model: A network in evaluation mode that has not run yet. Every pass runs a copy of its own:
            what a network keeps from one pass to the next has no part in the loss.
        names: Its trainable parameters.
        loss: Makes the loss over all samples of a batch, a function of the batch alone, from a
            network.
        foreign: The user's own parameters, which no loss may read.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        loss: Callable[[nn.Module], Callable[[Any], Any]],
        batch: Any,
        foreign: Iterable[weakref.ref[Any]] = (),
    ) -> None:
        self._pristine, self._names = model, names
        self._make_loss, self._batch = loss, batch
        self._foreign = [t for t in (alive() for alive in foreign) if t is not None]
        self.values = self.gradients = 0
        # Whether a pass has changed its inputs or targets, as operations in place do.
        self.changes_its_samples = False

    @property
    def cost(self) -> Cost:
        """Passes so far, by kind."""
        passes = {"referee's value": self.values, "referee's gradient": self.gradients}
        return Cost({kind: count for kind, count in passes.items() if count})

    def value(self, theta: Tensor) -> float:
        """L(θ)."""
        self.values += 1
        with self._at(theta):
            return float(self._forward().detach())

    def value_again(self, graph: bool) -> float:
        """The loss once more, by the very network that ran last, with or without a graph."""
        self.values += 1
        with self._without_onednn(), torch.set_grad_enabled(graph):
            return float(self._forward().detach())

    def gradient(self, theta: Tensor) -> Tensor:
        """∇L(θ); what the loss does not depend on has derivative zero."""
        self.gradients += 1
        with self._at(theta):
            loss = self._forward()
            return self._flat(self._derivatives(loss) if loss.requires_grad else None)

    def product(self, theta: Tensor, v: Tensor) -> Tensor:
        """∇²L(θ)v by plain reverse mode over reverse mode; hardsigmoid, which has none, by clamp."""
        self.gradients += 2
        with self._at(theta), _HardSigmoid():
            loss = self._forward()
            if not loss.requires_grad:
                return self._flat(None)
            slope = self._flat(self._derivatives(loss, create_graph=True))
            along = slope @ v
            return self._flat(self._derivatives(along) if along.requires_grad else None)

    def gauss_newton_product(self, theta: Tensor, v: Tensor) -> Tensor:
        """J'(∇²ℓ)Jv by plain reverse mode, J the Jacobian of the outputs of the network.

        A hook cuts the graph between network and loss; Jv is the derivative along v of J'u, which
        is linear in u. The network must be called once by its loss.
        """
        self.gradients += 3
        outputs: list[Tensor] = []
        values: list[Tensor] = []

        def cut(leaf: Any) -> Any:
            if not (isinstance(leaf, Tensor) and leaf.requires_grad):
                return leaf
            outputs.append(leaf)
            values.append(leaf.detach().requires_grad_())
            return values[-1].clone()

        with self._at(theta), _HardSigmoid():
            self._model.register_forward_hook(lambda module, inputs, z: tree_map(cut, z))
            loss = self._forward()
            if not outputs or not loss.requires_grad:
                return self._flat(None)
            slopes = torch.autograd.grad(loss, values, create_graph=True, materialize_grads=True)
            u = [torch.zeros_like(z, requires_grad=True) for z in outputs]
            transposed = self._flat(self._derivatives(outputs, u, create_graph=True))
            images = torch.autograd.grad(transposed @ v, u, materialize_grads=True)
            along = torch.stack([(s * image).sum() for s, image in zip(slopes, images)]).sum()
            if not along.requires_grad:  # a loss that is linear in the outputs
                return self._flat(None)
            curved = torch.autograd.grad(along, values, materialize_grads=True)
            return self._flat(self._derivatives(outputs, curved))

    def first_pass(self, theta: Tensor) -> FirstPass:
        """L(θ), and what the network is seen to do on the way."""
        self.values += 1
        with self._at(theta):
            held = _held(self._model)
            copies = [tensor.clone() for tensor in held]
            with _Watch(self._foreign, self._parameters) as watch, _Calls(watch):
                loss = self._forward()
        coarsest = min(watch.lowest or theta.dtype, loss.dtype, key=lambda dtype: dtype.itemsize)
        steps = list(nodes(loss))
        # What an earlier pass of the network left has a graph that ends at the user's parameters.
        left = {id(getattr(step, "variable", None)) for step in steps} & set(map(id, self._foreign))
        if watch.reads_foreign or left:
            raise ModelError(
                "The loss reads the network's own parameters by another way than its outputs: it "
                "would not follow them; return what it needs from the network."
            )
        return FirstPass(
            value=float(loss.detach()),
            changes_its_parameters=not self.stands_at(theta),
            changes_its_buffers=not all(
                torch.equal(now.nan_to_num(), before.nan_to_num())
                for now, before in zip(held, copies)
            ),
            rounds_to=coarsest,
            kinks=sorted({*kinks(steps), *watch.jumps}),
            jumps=sorted(watch.jumps),
            reads_numbers=watch.reads_numbers,
        )

    def stands_at(self, theta: Tensor) -> bool:
        """Whether the network still had these parameters, to the bit, after the last pass."""
        bits = torch.int64 if theta.dtype == torch.float64 else torch.int32
        left = self._flat([p.detach() for p in self._parameters])
        return torch.equal(left.view(bits), theta.view(bits))

    def value_after(self, theta: Tensor, half: int, seen: bool) -> float:
        """The loss of the one half of the samples (0, 1), by a network that has seen nothing before
        or the other half.
        """
        halves: list[list[Any]] = [[], []]
        for batch in self._batch:
            n = len(tree_leaves(batch)[0])
            for own, rows in zip(halves, (slice(n // 2), slice(n // 2, None))):
                if range(n)[rows]:
                    own.append(tree_map(lambda t, rows=rows: t[rows].clone(), batch))
        self.values += 1 + seen
        with self._at(theta), torch.no_grad():
            if seen:
                self._loss(halves[1 - half])
            return float(self._loss(halves[half]))

    def _forward(self) -> Tensor:
        batch = tree_map(Tensor.clone, self._batch)
        fresh = [leaf._version for leaf in tree_leaves(batch)]
        loss = self._loss(batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            raise ModelError(_no_loss(loss))
        leaves = tree_leaves(batch)
        # What is changed through .data has no version, but another content.
        if fresh != [leaf._version for leaf in leaves] or not all(
            map(torch.equal, leaves, tree_leaves(self._batch))
        ):
            self.changes_its_samples = True
        return loss.reshape(())

    def _derivatives(
        self, of: Any, weights: Any = None, create_graph: bool = False
    ) -> Sequence[Tensor | None]:
        return torch.autograd.grad(
            of, self._parameters, weights, allow_unused=True, create_graph=create_graph
        )

    def _flat(self, parts: Sequence[Tensor | None] | None) -> Tensor:
        parts = [None] * len(self._parameters) if parts is None else parts
        return torch.cat(
            [
                (torch.zeros_like(parameter) if part is None else part).reshape(-1)
                for part, parameter in zip(parts, self._parameters)
            ]
        )

    @contextlib.contextmanager
    def _at(self, theta: Tensor) -> Iterator[None]:
        model = copied(self._pristine)
        self._model, parameters = model, dict(model.named_parameters())
        self._parameters = [parameters[name] for name in self._names]
        self._loss = self._make_loss(model)
        parts = theta.split([parameter.numel() for parameter in self._parameters])
        with torch.no_grad():
            model.train()
            for parameter, part in zip(self._parameters, parts):
                parameter.copy_(part.view_as(parameter))
            model.eval()  # what it computes of its weights there is that of these weights
        with torch.enable_grad(), self._without_onednn():
            yield

    @contextlib.contextmanager
    def _without_onednn(self) -> Iterator[None]:
        with contextlib.ExitStack() as native:
            if self._parameters[0].dtype == torch.float32:  # in float64 it has no kernels
                native.enter_context(warnings.catch_warnings(action="ignore"))
                native.enter_context(torch.backends.mkldnn.flags(enabled=False))
            yield


def _no_loss(loss: Any) -> str:
    """What is wrong with something that a loss has returned."""
    what = type(loss).__name__
    if isinstance(loss, int | float):
        what = f"a {what} of Python's without a derivative (by .item() or float())"
    elif isinstance(loss, Tensor):
        count = f"a count in {loss.dtype}, which has no derivative"
        what = str(tuple(loss.shape)) if loss.numel() != 1 else count
    return f"The loss of a batch is {what}, but one real number in a tensor is needed."


_READING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default}


class _Watch(Watching):
    """Notes casts from a real number to one of lower precision, who reads the foreign tensors, and
    what jumps as the parameters move.

    What depends on the parameters is followed through memory: also where no gradient goes
    (`detach`, `.data`, `no_grad`, functions with a backward pass of their own).
    """

    def __init__(self, foreign: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.lowest: torch.dtype | None = None
        self.reads_foreign = self.reads_numbers = False
        self.jumps: set[str] = set()
        self.inside_guard = False
        self._foreign = {_memory(t) for t in foreign if t.requires_grad}
        # Held, lest other numbers come to lie where they lay.
        self._moving = {_memory(p): p.untyped_storage() for p in parameters}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is not torch.ops.aten.detach.default:  # how tensors are copied, too
            self.reads_foreign |= bool(set(map(_memory, read)) & self._foreign)
        self.reads_numbers |= func in _READING
        moving = [leaf for leaf in read if self.moves(leaf)]
        result = func(*args, **(kwargs or {}))
        if moving:
            self._follow(func, moving, result, kwargs or {})
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = read[-1]
            if (
                source.is_floating_point()
                and result.is_floating_point()
                and result.dtype.itemsize < (self.lowest or source.dtype).itemsize
            ):
                self.lowest = result.dtype
        return result

    def moves(self, value: Any) -> bool:
        """Whether it is a tensor that depends on the parameters."""
        return isinstance(value, Tensor) and _memory(value) in self._moving

    def _follow(self, func: Any, moving: Sequence[Tensor], result: Any, options: Any) -> None:
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._moving |= {
            _memory(leaf): leaf.untyped_storage()
            for leaf in results
            if leaf.layout == torch.strided
        }
        if self.inside_guard or not any(map(_is_real, moving)):
            return
        name = "item" if func in _READING else plain_name(func.overloadpacket)
        plain = name.replace("_", "")
        discrete = not all(leaf.is_floating_point() or leaf.is_complex() for leaf in results)
        has_gradient = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in moving)
        if (
            name in JUMPS
            or func in _READING
            or options.get("rounding_mode") is not None
            or (discrete and not plain.startswith(_NO_JUMPS))
            or (plain.startswith(KINKS) and not has_gradient)
        ):
            self.jumps.add(name)


class _Calls(TorchFunctionMode):
    """Tells a `_Watch` of calls that the operations they consist of do not show."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = plain_name(func)
        if name in _TO_NUMPY and self._watch.moves(args[0]):
            self._watch.jumps.add(name)
        if name not in _GUARDS:
            return func(*args, **(kwargs or {}))
        outside, self._watch.inside_guard = self._watch.inside_guard, True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._watch.inside_guard = outside


def _held(model: nn.Module) -> list[Tensor]:
    """The tensors that a network holds beside its parameters."""
    parts = (part for m in model.modules() for part in (*vars(m).values(), *m._buffers.values()))
    return [part for part in parts if isinstance(part, Tensor) and part.layout == torch.strided]


def _memory(tensor: Tensor) -> Any:
    """What tensors that share memory have in common; None where they have none (sparse ones)."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else None


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def plain_name(func: Callable[..., Any]) -> str:
    """The name of a function or method, without the mark of those in place."""
    name: str = func.__name__
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


def requires_grad(value: Any) -> bool:
    """Whether a tensor in a tree does."""
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(value))


class _HardSigmoid(TorchFunctionMode):
    """Written out: PyTorch's has no second backward pass."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.hardsigmoid:
            return func(*args, **kwargs)
        x, in_place = args[0], kwargs.get("inplace", len(args) > 1 and args[1])
        y = (x / 6 + 0.5).clamp(0, 1)
        return x.copy_(y) if in_place else y


def cast(batch: Any, dtype: torch.dtype | None, device: torch.device) -> Any:
    """A tree of tensors on a device, in a precision if one is named; integers stay integers."""
    return tree_map(lambda t: t.to(device=device, dtype=of_kind(t, dtype)), batch)


def nodes(result: Tensor, before: Iterable[Any] = ()) -> Iterator[Any]:
    """The steps of a graph, back to where it begins or to these steps, which are left out."""
    waiting, seen = [result.grad_fn], set(before)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions)


def kinks(steps: Iterable[Any]) -> list[str]:
    """The names of those steps of a graph whose slope jumps."""
    return sorted({_operation(step) for step in steps if _has_kinks(step)})


def _has_kinks(step: Any) -> bool:
    name = _operation(step).lower()
    if name == "elu":  # with these options its slope is continuous
        return step._saved_alpha * step._saved_input_scale != 1
    if name in ("linalgvectornorm", "norm", "cdist", "pdist"):
        order = step._saved_ord if "vector" in name else step._saved_p
        return order is not None and (order <= 1 or math.isinf(order))
    if name in ("scatterreduce", "indexreduce", "segmentreduce"):
        return step._saved_reduce in ("amax", "amin", "max", "min")
    if name == "embeddingbag":
        return step._saved_mode == 2  # maximum
    if name.startswith("gridsampler"):  # in the grid, not in what is sampled
        return step.next_functions[1][0] is not None
    return name.startswith(KINKS)


def _operation(step: Any) -> str:
    return type(step).__name__.partition("Backward")[0]
