"""Any network: an objective equals PyTorch's plain double autograd, or it refuses."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from plain_autograd import PlainAutograd, Quantity
from random_networks import (
    COMBINATIONS,
    ENTRIES,
    LOSSES,
    PIECES,
    Built,
    Case,
    Layer,
    build,
    cases,
    fitting,
    quietly,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from hessian_directions.errors import HessianDirectionsError, ModelError
from hessian_directions.geometry.directions import gaussian
from hessian_directions.objectives.objective import Objective
from hessian_directions.traces import estimators

# Networks in `make test`, and in each part of `make test-all`: two thousand in all.
SHORT, LONG, PARTS = 100, 500, 4

# Of the networks that plain PyTorch differentiates rightly this share may be refused (strange ones:
# scripted, with sparse gradients, computing in float16); of all, at least this share must be equal.
MAY_BE_REFUSED, MUST_BE_EQUAL = 0.1, 0.5

# Of the loss differences, along directions whose entries have variance 1.
STEP = 1e-2

WRONG = "autograd is wrong"


# --- one network ----------------------------------------------------------------------------------


class Disagreement(AssertionError):  # noqa: N818
    """A number that is not the right one, an error that is not the library's, a changed network."""


def outcomes(case: Case) -> dict[str, str]:
    """What became of each call: "equal", "undecided", or the sentence with which it was refused.

    Raises:
        Disagreement: It is neither equal nor refused; or refused, though the network is ordinary.
    """
    built = build(case)
    before = _fingerprint(built)
    done: dict[str, str] = {}
    try:
        with _surroundings(case), quietly():
            objective = Objective(
                built.model,
                built.loss,
                *_handed_over(case, built),
                batch_size=case.batch_size,
                vectors_at_once=case.vectors_at_once,
            )
    except HessianDirectionsError as error:
        done = {"construction": _sentence(error)}
    except Exception as error:
        raise Disagreement(f"{case}: construction: {type(error).__name__}: {error}") from error
    else:
        ask = _Questions(case, objective)
        for call in case.calls:
            try:
                with _surroundings(case), quietly():
                    answer = getattr(ask, call)()
            except HessianDirectionsError as error:
                done[call] = _sentence(error)
            except Exception as error:
                raise Disagreement(f"{case}: {call}: {type(error).__name__}: {error}") from error
            else:
                try:
                    done[call] = answer()
                except Disagreement as error:
                    if ask.mixes_elsewhere():
                        done[call] = "undecided"
                        continue
                    raise Disagreement(f"{case}: {call}: {error}") from None
    if (after := _fingerprint(built)) != before:
        changed = [key for key in before if before[key] != after.get(key)]
        raise Disagreement(f"{case}: changed: {changed}")
    return done


def verdict(case: Case) -> tuple[str, str]:
    """What became of the network: "equal", "refused …"; and why.

    Raises:
        Disagreement: See `outcomes`; an ordinary network was refused.
    """
    done = outcomes(case)
    reasons = [outcome for outcome in done.values() if outcome not in ("equal", "undecided")]
    if not reasons:
        return ("equal", "") if "equal" in done.values() else ("undecided", "")
    plain = PlainAutograd(case)
    V = gaussian(len(plain.theta), 1, torch.Generator().manual_seed(0))
    why = plain.value.why or plain.gradient.why or plain.product(V).why
    if not why and not _splits(case):
        why = "the loss is that of no single samples"
    if why or (
        all(reason.startswith("NonFiniteError") for reason in reasons)
        and not _Questions(case).is_finite()
    ):
        return "rightly refused", reasons[0]
    if case.ordinary:
        raise Disagreement(f"{case}: an ordinary network is refused: {reasons[0]}")
    return "refused", reasons[0]


class _Questions:
    """Each method asks the objective, and returns how to judge the answer."""

    def __init__(self, case: Case, objective: Objective | None = None) -> None:
        self._case = case
        if objective is not None:
            self._objective = objective
        self._own = PlainAutograd(case)
        n = len(self._own.theta)
        generator = torch.Generator().manual_seed(case.seed)
        self._moved_by = 0.3 * gaussian(n, 1, generator)[:, 0]
        self._moved = PlainAutograd(case, self._own.theta + self._moved_by)
        self._V = gaussian(n, 3, generator)
        self._points = self._own.theta[:, None] + 0.3 * gaussian(n, 3, generator)

    def is_finite(self) -> bool:
        """Whether PyTorch's numbers are finite wherever an objective is asked for them."""
        elsewhere = [PlainAutograd(self._case, point.clone()) for point in self._points.T]
        if any(place.error for place in (self._own, self._moved, *elsewhere)):
            return False
        return all(
            "not finite" not in place.gradient.why + place.product(self._V).why
            for place in (self._own, self._moved)
        )

    def mixes_elsewhere(self) -> bool:
        """Whether samples of a batch are mixed, and not at the network's own parameters: behind
        what is flat there, for instance, where no self-test sees it.
        """
        points = [self._moved.theta, *self._points.T]
        elsewhere = [PlainAutograd(self._case, point.clone()) for point in points]
        return self._own.outputs_are_of_single_samples() and not all(
            place.outputs_are_of_single_samples() for place in elsewhere
        )

    def _both(self, ask: Callable[[Tensor | None], Tensor], judge: Callable[..., str]) -> Any:
        """At the model's own parameters and elsewhere."""
        theta = self._moved.theta.clone()
        results = [ask(None), ask(theta)]
        assert torch.equal(theta, self._moved.theta)

        def judged() -> str:
            places = (self._own, self._moved)
            found = [judge(result, place) for result, place in zip(results, places)]
            return "undecided" if "undecided" in found else "equal"

        return judged

    def value(self) -> Any:
        return self._both(self._objective.value, lambda r, place: _compare(r, place.value))

    def values(self) -> Any:
        points = self._points.clone()
        together = self._objective.values(points)
        singly = torch.stack([self._objective.value(point) for point in points.T])
        assert torch.equal(points, self._points)

        def judged() -> str:
            found = set()
            for i, point in enumerate(self._points.T):
                truth = PlainAutograd(self._case, point.clone()).value
                found |= {_compare(together[i], truth), _compare(singly[i], truth)}
            return "undecided" if "undecided" in found else "equal"

        return judged

    def gradient(self) -> Any:
        def judge(result: Tensor, place: PlainAutograd) -> str:
            truth = place.gradient
            if truth.truth is not None:
                return _compare(result, truth)
            if truth.why == WRONG or truth.why.startswith("no gradient"):
                slope = place.differences_of_losses(self._V[:, 0])
                size = float(result.norm() * self._V[:, 0].norm())
                along = float(result @ self._V[:, 0])
                if abs(along - slope) > 1e-4 * size:
                    raise Disagreement(f"{truth.why}, and {along} is not {slope}")
                return "equal"
            return _compare(result, truth)

        return self._both(self._objective.gradient, judge)

    def product(self) -> Any:
        return self._products(1)

    def products(self) -> Any:
        return self._products(3)

    def _products(self, k: int) -> Any:
        V = self._V[:, :k].clone()
        v = V[:, 0] if k == 1 else V

        def judge(result: Tensor, place: PlainAutograd) -> str:
            if result.shape != v.shape:
                raise Disagreement(f"shape {tuple(result.shape)}")
            product = result.reshape(V.shape)
            if place.gradient.why == WRONG:
                return _compare_cross(V.T @ product, place, V)
            return _compare(product, *_product(place, V))

        judged = self._both(lambda at: self._objective.hessian_vector_product(v, at), judge)
        assert torch.equal(V, self._V[:, :k])
        return judged

    def second(self) -> Any:
        V = self._V[:, :2].clone()

        def judge(result: Tensor, place: PlainAutograd) -> str:
            if place.gradient.why == WRONG:
                return _compare_cross(result.diag(), place, V)
            product, weak = _product(place, V)
            if product.truth is None:
                return _compare(result, product)
            allowed = product.allowed * float(V.norm(dim=0).max())
            return _compare(result, Quantity((V * product.truth).sum(0), allowed), weak)

        return self._both(lambda at: self._objective.second_directional_derivative(V, at), judge)

    def fd(self) -> Any:
        n = len(self._own.theta)
        estimate = estimators.finite_difference(
            self._objective, 2, torch.Generator().manual_seed(5), "gaussian", STEP
        )
        V = gaussian(n, 2, torch.Generator().manual_seed(5))

        def judged() -> str:
            if self._own.error:
                return _compare(estimate.samples, self._own.value)
            centre, differences, rounding = self._own.loss(self._own.theta), [], 0.0
            for v in V.T:
                sides = [self._own.loss(self._own.theta + s * STEP * v) for s in (1, -1)]
                differences.append((sides[0] - 2 * centre + sides[1]) / STEP**2)
                # Four losses, each of which both ways round.
                rounding += sum(self._own.rounding(side) for side in (*sides, centre, centre))
            expected = torch.tensor(differences, dtype=torch.float64)
            allowed = 1e-8 * float(expected.norm()) + 2 * rounding / STEP**2
            return _compare(estimate.samples, Quantity(expected, allowed))

        return judged


def _compare_cross(cross: Tensor, place: PlainAutograd, V: Tensor) -> str:
    """V'HV, or its diagonal, against differences of losses: where nothing else is right."""
    truth = place.second_differences(V)
    size = float(truth.norm())
    if cross.count_nonzero() <= len(cross):
        truth = truth.diag().diag()
    return _compare(cross, Quantity(truth, 0.02 * size + 1e-6, WRONG))


def _product(place: PlainAutograd, V: Tensor) -> tuple[Quantity, bool]:
    """The truth, and whether it comes from differences: because autograd is wrong, or missing."""
    exact = place.product(V)
    if exact.truth is not None or place.gradient.truth is None:
        return exact, False
    differences = place.differences_of_slopes(V)
    return Quantity(differences, 1e-3 * float(differences.norm()), exact.why), True


def _compare(result: Tensor, quantity: Quantity, weak: bool = False) -> str:
    if quantity.truth is None:
        if quantity.why in ("not finite", "gradient not finite", "product not finite"):
            return "undecided"
        raise Disagreement(f"returned, but {quantity.why}")
    if result.shape != quantity.truth.shape:
        raise Disagreement(f"shape {tuple(result.shape)} for {tuple(quantity.truth.shape)}")
    deviation = float((result.double() - quantity.truth).norm())
    if not deviation <= quantity.allowed:
        raise Disagreement(
            f"deviates by {deviation:.2e} of {float(quantity.truth.norm()):.2e}, allowed "
            f"{quantity.allowed:.1e}{', ' + quantity.why if weak else ''}"
        )
    return "equal"


def _splits(case: Case) -> bool:
    """Whether PyTorch's loss of all samples is put together from those of single ones."""
    mixing = ("unsaid", "largest", "root", "contrastive", "of columns")
    if any(word in case.loss for word in mixing) and case.loss != "squares of columns, rightly":
        return False
    return PlainAutograd(case).outputs_are_of_single_samples()


def _sentence(error: Exception) -> str:
    """The class of a message: without what is particular."""
    text = str(error)
    text = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", text)
    text = re.sub(r"'[^']*'|\d[\d.e+-]*", "…", text)
    return f"{type(error).__name__}: {text[:110]}"


def _handed_over(case: Case, built: Built) -> tuple[Any, ...]:
    inputs, targets = built.inputs, built.targets
    if case.handed_over == "arrays":
        return tree_map(lambda t: t.numpy(), (inputs, targets))
    if case.handed_over == "tensors":
        return inputs, targets
    size = max(1, case.n_samples // 2)
    slices = [slice(i, i + size) for i in range(0, case.n_samples, size)]
    batches = [tree_map(lambda t, s=s: t[s], (inputs, targets)) for s in slices]
    if case.handed_over == "batches":
        return (batches,)
    return (torch.utils.data.DataLoader(_Rows(inputs, targets), batch_size=size),)


class _Rows(torch.utils.data.Dataset):
    def __init__(self, inputs: Any, targets: Any) -> None:
        self._rows = inputs, targets

    def __len__(self) -> int:
        return len(tree_leaves(self._rows)[0])

    def __getitem__(self, i: int) -> Any:
        return tree_map(lambda t: t[i], self._rows)


def _surroundings(case: Case) -> Any:
    return {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
    }.get(case.surroundings, nullcontext)()


def _fingerprint(built: Built) -> dict[str, Any]:
    """Everything about a user's network and data that must stay as it was."""

    def bits(tensor: Tensor) -> tuple[Any, ...]:
        return (tensor.dtype, tuple(tensor.shape), tensor.detach().numpy().tobytes())

    found: dict[str, Any] = {}
    for name, parameter in built.model.named_parameters(remove_duplicate=False):
        found[f"parameter {name}"] = (
            id(parameter), bits(parameter), parameter.requires_grad, parameter.grad is None,
        )  # fmt: skip
    for name, buffer in built.model.named_buffers():
        found[f"buffer {name}"] = (id(buffer), bits(buffer))
    for name, module in built.model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        hooks = [
            list(getattr(module, kind))
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        ]
        plain = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str | type(None))
        }
        found[f"module {name}"] = (module.training, hooks, plain, sorted(vars(module)))
    for i, leaf in enumerate(tree_leaves((built.inputs, built.targets))):
        found[f"data {i}"] = (bits(leaf), leaf.stride(), leaf.requires_grad)
    return found


# --- many networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "number"),
    [(SHORT, 0), *[pytest.param(LONG, 1 + i, marks=pytest.mark.long) for i in range(PARTS)]],
)
def test_any_network_is_followed_or_refused(
    count: int, number: int, record_property: Callable[[str, Any], None]
) -> None:
    """A failure prints the network: `verdict(Case(...))` runs it again."""
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    kinds: set[str] = set()

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(cases())
    def run(case: Case) -> None:
        what, why = verdict(case)
        verdicts[what] += 1
        kinds.update(layer.name for outer in case.layers for layer in outer.walk())
        if why:
            reasons[f"{what}: {why}"] += 1

    start = time.process_time()
    run()
    record_property("networks", dict(verdicts))
    record_property("refusals", dict(reasons))
    record_property("kinds of layers", sorted(kinds))
    record_property("CPU seconds", time.process_time() - start)
    equal, refused = verdicts["equal"], verdicts["refused"]
    assert refused <= MAY_BE_REFUSED * (equal + refused), reasons
    assert equal >= MUST_BE_EQUAL * verdicts.total(), verdicts


SHAPES = ((2, 5, 5), (3, 5, 5), (4, 3), (4,), (6,))


@pytest.mark.parametrize("name", sorted(PIECES))
def test_every_layer_fits_somewhere(name: str) -> None:
    options = {key: given[0] for key, given in PIECES[name].options.items()}
    if name in COMBINATIONS:
        options = {"inside": Layer("Tanh")}
    shapes = [shape for shape in SHAPES if len(shape) in PIECES[name].kinds]
    fits = [fitting(shape, Layer(name, **options)) is not None for shape in shapes]
    assert any(fits) != (name == "raises")


# --- the test itself ------------------------------------------------------------------------------

PLAIN = Case(layers=(Layer("linear", width=3, bias=True), Layer("Tanh")))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss(loss: str) -> None:
    case = replace(PLAIN, loss=loss, entry="image, convolved" if "pixels" in loss else "vector")
    case = case if "pixels" not in loss else replace(case, layers=(Layer("Tanh"),))
    followed = LOSSES[loss].ordinary and loss != "margin"  # PyTorch has no second derivative of it
    in_place = loss in ("in place", "changes its targets")  # strange, and followed
    assert verdict(case)[0] == ("equal" if followed or in_place else "rightly refused")


@pytest.mark.parametrize("entry", sorted(ENTRIES))
def test_every_entry(entry: str) -> None:
    assert verdict(Case(entry=entry))[0] in (
        ("equal", "rightly refused") if ENTRIES[entry].ordinary else ("refused", "rightly refused")
    )


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *[("gradient", "gradient"), ("hessian_vector_product", "products"), ("value", "value")],
        *[("second_directional_derivative", "second"), ("values", "fd"), ("values", "values")],
    ],
)
def test_a_number_that_is_wrong_in_the_eighth_digit_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    right = getattr(Objective, name)
    assert verdict(replace(PLAIN, calls=(call,))) == ("equal", "")
    monkeypatch.setattr(Objective, name, lambda *args: right(*args) * (1 + 1e-7))
    with pytest.raises(Disagreement, match="deviates"):
        verdict(replace(PLAIN, calls=(call,)))


def test_an_objective_that_refuses_what_is_ordinary_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any) -> None:
        raise ModelError("No.")

    monkeypatch.setattr(Objective, "gradient", refuse)
    with pytest.raises(Disagreement, match="an ordinary network is refused: ModelError: No"):
        verdict(PLAIN)


def test_another_error_than_the_librarys_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise KeyError("weight")

    monkeypatch.setattr(Objective, "values", fail)
    with pytest.raises(Disagreement, match="KeyError"):
        verdict(PLAIN)


@pytest.mark.parametrize("what", ["parameter", "mode", "hook", "input", "gradient"])
def test_a_changed_network_is_found(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    right = Objective.__init__

    def spoil(objective: Objective, model: nn.Module, *args: Any, **options: Any) -> None:
        right(objective, model, *args, **options)
        parameter = next(model.parameters())
        with torch.no_grad():
            if what == "parameter":
                parameter.mul_(1 + 1e-15)
            if what == "mode":
                model.train()
            if what == "hook":
                model.register_forward_hook(lambda *_: None)
            if what == "input":
                args[1].mul_(1 + 1e-15)
            if what == "gradient":
                parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Objective, "__init__", spoil)
    with pytest.raises(Disagreement, match="changed"):
        verdict(PLAIN)
