"""Hessian-vector products and second directional derivatives, for one vector and for sixteen."""

import time
from collections.abc import Callable
from typing import Any

import torch
from alternation import alternate
from goals import DERIVATIVE, DERIVATIVES, PROBES, PRODUCT, decided, timed_row
from peers import MULTIPLIERS, Peer
from subjects import LAYOUTS, SEED, Subject
from torch import Tensor

from hessian_directions import directions, trace
from hessian_directions.objective import Objective

# Values of different tools in float32, relative to their norm.
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
    product = objective.hessian_vector_product(v)
    ours: Tasks = {
        PRODUCT: lambda: objective.hessian_vector_product(v),
        DERIVATIVE: lambda: objective.second_directional_derivative(v),
    }
    peers = [peer(subject, layout) for peer in MULTIPLIERS for layout in LAYOUTS]
    return _rows(subject, objective, V, product[:, None], ours, peers, rounds)


def measure_several(
    subject: Subject, fastest_layouts: dict[str, str], rounds: int
) -> dict[str, list[Row]]:
    """Rows by work for sixteen vectors, against the peer that is fastest at one call of each.

    Each peer gets the layout in which one product was fastest.
    """
    objective, V = subject.objective(), _vectors(subject, 16)
    H = objective.hessian()
    products = H @ V
    ours: Tasks = {
        PROBES: lambda: trace.hutchinson(H, directions=V),
        DERIVATIVES: lambda: objective.second_directional_derivative(V),
    }
    peers = [peer(subject, fastest_layouts[peer.name]) for peer in MULTIPLIERS]
    return _rows(subject, objective, V, products, ours, peers, rounds, only_fastest=True)


def _rows(
    subject: Subject,
    objective: Objective,
    V: Tensor,
    products: Tensor,
    ours: Tasks,
    peers: list[Peer],
    rounds: int,
    only_fastest: bool = False,
) -> dict[str, list[Row]]:
    """All of `ours` against the peers in one alternation, after the values were found equal."""
    require_equal_derivatives(objective, V)
    require_no_graph(objective, V[:, 0].contiguous())
    tasks, first_calls = {}, {}
    settle = settling(subject)
    for peer in peers:
        tasks[peer] = peer.multiplication(V)
        start = time.perf_counter()
        theirs = tasks[peer]()
        settle()
        first_calls[peer] = time.perf_counter() - start
        require_equal(torch.stack(theirs, 1), products, peer.name, "ours")
    note = ""
    if only_fastest:
        note = "one call of each: " + ", ".join(
            f"{p.name} {t:.2f} s" for p, t in first_calls.items()
        )
        peers = [min(peers, key=first_calls.__getitem__)]
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


def require_equal(a: Tensor, b: Tensor, name: str, other: str) -> None:
    """Stop where two tools disagree: their times would not be comparable."""
    deviation = float((a - b).norm() / b.norm())
    if not deviation <= TOLERANCE:
        raise AssertionError(f"{name} and {other} differ by {deviation:.1e} relative to their norm")


def require_equal_derivatives(objective: Objective, V: Tensor) -> None:
    """Stop where v'Hv by the one way and by the other disagree, in float64 on four images.

    In float32 its rounding is larger: v'Hv is a small difference of large numbers.
    """
    few = objective.subset(range(4)).to(dtype=torch.float64)
    W = V.double()
    quadratic = (W * few.hessian_vector_product(W)).sum(0)
    derivatives = few.second_directional_derivative(W)
    require_equal(derivatives, quadratic, "second directional derivatives", "products")


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
