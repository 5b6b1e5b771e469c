"""Hessian-vector products and second directional derivatives, for one vector and for sixteen."""

from collections.abc import Callable
from typing import Any

import torch
from alternation import alternate
from goals import DERIVATIVE, DERIVATIVES, PROBES, PRODUCT, decided, timed_row
from peers import MULTIPLIERS, Peer
from subjects import LAYOUTS, SEED, Subject
from torch import Tensor

from hessian_directions.geometry import directions
from hessian_directions.objectives.objective import Objective
from hessian_directions.traces import estimators

# Values of different tools relative to their norm: in float64 on so many images, and in float32.
EXACT, FEW_IMAGES = 1e-8, 4
TOLERANCE = 1e-3

# A forward pass is short: the mean of so many calls is one measurement.
FORWARDS = 3

NOTES = dict.fromkeys(
    (DERIVATIVE, DERIVATIVES),
    "peers have no such derivative: their Hessian-vector product stands beside it",
)

Row = dict[str, Any]
Tasks = dict[str, Callable[[], object]]


def measure_single(subject: Subject, rounds: int) -> dict[str, list[Row]]:
    """Rows by work for one vector, against every peer in both layouts."""
    objective, V = subject.objective(), _vectors(subject, 1)
    v = V[:, 0].contiguous()
    require_no_graph(objective, v)
    ours: Tasks = {
        PRODUCT: lambda: objective.hessian_vector_product(v),
        DERIVATIVE: lambda: objective.second_directional_derivative(v),
    }
    return _rows(
        subject, V, ours, [(peer, layout) for peer in MULTIPLIERS for layout in LAYOUTS], rounds
    )


def measure_several(
    subject: Subject, fastest_layouts: dict[str, str], rounds: int
) -> dict[str, list[Row]]:
    """Rows by work for sixteen vectors, against the peer that is fastest at one call of each.

    Each peer gets the layout in which one product was fastest.
    """
    objective, V = subject.objective(), _vectors(subject, 16)
    H = objective.hessian()
    ours: Tasks = {
        PROBES: lambda: estimators.hutchinson(H, directions=V),
        DERIVATIVES: lambda: objective.second_directional_derivative(V),
    }
    peers = [(peer, fastest_layouts[peer.name]) for peer in MULTIPLIERS]
    return _rows(subject, V, ours, peers, rounds, only_fastest=True)


def _rows(
    subject: Subject,
    V: Tensor,
    ours: Tasks,
    kinds: list[tuple[type[Peer], str]],
    rounds: int,
    only_fastest: bool = False,
) -> dict[str, list[Row]]:
    """All of `ours` against the peers in one alternation, after the values were found equal."""
    require_equal_values(subject, V, kinds)
    settle, note = settling(subject), ""
    for task in ours.values():
        task()
    peers = [peer(subject, layout) for peer, layout in kinds]
    tasks = {peer: peer.multiplication(V) for peer in peers}
    first = {peer: alternate({"": task}, 1, settle=settle)[""][0] for peer, task in tasks.items()}
    if only_fastest:
        note = "one call of each: " + ", ".join(f"{p.name} {t:.2f} s" for p, t in first.items())
        peers = [min(peers, key=first.__getitem__)]
    forwards = forward_passes(subject)
    seconds = alternate(
        ours | {str(peer): tasks[peer] for peer in peers} | forwards,
        rounds,
        dict.fromkeys(forwards, FORWARDS),
        settle,
    )
    forward = fastest_forward(seconds)
    return {
        work: decided(
            [
                timed_row(
                    work,
                    seconds[work],
                    seconds[str(peer)],
                    forward,
                    count=V.shape[1],
                    peer=peer.name,
                    peer_layout=peer.layout,
                    note="; ".join(filter(None, (NOTES.get(work), note))),
                    **subject.columns,
                )
                for peer in peers
            ]
        )
        for work in ours
    }


def _vectors(subject: Subject, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return directions.rademacher(
        subject.n_parameters, count, generator, torch.float32, subject.device
    )


def require_equal_values(subject: Subject, V: Tensor, kinds: list[tuple[type[Peer], str]]) -> None:
    """Stop where products, or second directional derivatives, are not equal in float64.

    In float32 rounding moves activations across the kinks of the network, so that correct products
    of deep networks with few images differ by a percent.
    """
    few, W = subject.few(FEW_IMAGES), V.double()
    objective = few.objective()
    products = objective.hessian_vector_product(W)
    for peer, layout in kinds:
        theirs = torch.stack(peer(few, layout).multiplication(W)(), 1)
        require_equal(theirs, products, f"{peer.name}, {layout}", EXACT)
    derivatives = objective.second_directional_derivative(W)
    require_equal((W * products).sum(0), derivatives, "products and derivatives", EXACT)


def require_equal(theirs: Tensor, ours: Tensor, name: str, tolerance: float = TOLERANCE) -> None:
    """Stop where values differ: times would not be comparable."""
    deviation = float((theirs - ours).norm() / ours.norm())
    if not deviation <= tolerance:
        raise AssertionError(f"{name}: values differ from ours by {deviation:.1e} of their norm")


def require_no_graph(objective: Objective, v: Tensor) -> None:
    """Stop if a second directional derivative keeps tensors for a backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor), lambda _: _):
        objective.second_directional_derivative(v)
    if kept:
        raise AssertionError(f"a second directional derivative stored {len(kept)} tensors")


def forward_passes(subject: Subject) -> Tasks:
    """Forward passes over all images in both layouts, called once."""
    tasks = {f"forward, {layout}": _forward_pass(subject, layout) for layout in LAYOUTS}
    for task in tasks.values():
        task()
    return tasks


def _forward_pass(subject: Subject, layout: str) -> Callable[[], object]:
    model, inputs = subject.in_layout(layout)

    @torch.no_grad()
    def forward() -> Tensor:
        return model(inputs)

    return forward


def fastest_forward(seconds: dict[str, list[float]]) -> list[float]:
    """Seconds of the forward pass in each round, in the layout that is faster in the median."""
    candidates = [times for name, times in seconds.items() if name.startswith("forward, ")]
    return min(candidates, key=lambda times: sorted(times)[len(times) // 2])


def settling(subject: Subject) -> Callable[[], None]:
    """A function that waits for the device."""
    if subject.device.type == "cuda":
        return torch.cuda.synchronize
    return lambda: None
