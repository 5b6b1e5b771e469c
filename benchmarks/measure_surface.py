"""Points of a loss surface: the same plane, the same number of points."""

from typing import Any

import numpy as np
import torch
from alternation import alternate
from goals import SURFACE, decided, timed_row
from measure_vectors import FORWARDS, fastest_forward, forward_passes, require_equal, settling
from peers import LossLandscapes
from subjects import LAYOUTS, SEED, Subject

from hessian_directions.geometry import directions, slices

# Points along each side, and the distance in parameter space between neighbours.
STEPS = 5
SPACING = 0.02


def measure_surface(subject: Subject, rounds: int) -> list[dict[str, Any]]:
    """Rows for seconds per point, against loss-landscapes in both layouts."""
    objective = subject.objective()
    generator = torch.Generator().manual_seed(SEED)
    V = directions.gaussian(subject.n_parameters, 2, generator, torch.float32, subject.device)
    V = SPACING * directions.unit(V) * float(objective.theta.norm())

    # It begins at the network's own weights and shifts every other row by one place.
    wider = slices.surface(objective, V, np.arange(STEPS), np.arange(STEPS + 1))
    expected = np.take_along_axis(wider.values, LossLandscapes.places(STEPS), axis=1)

    side = np.arange(STEPS)
    tasks = {"ours": lambda: slices.surface(objective, V, side, side)}
    tasks["ours"]()
    for layout in LAYOUTS:
        surface = LossLandscapes(subject, layout).surface(V, STEPS)
        name = f"{LossLandscapes.name}, {layout}"
        require_equal(torch.from_numpy(surface()), torch.from_numpy(expected), name)
        tasks[name] = surface
    forwards = forward_passes(subject)
    seconds = alternate(
        tasks | forwards, rounds, dict.fromkeys(forwards, FORWARDS), settling(subject)
    )
    forward = fastest_forward(seconds)
    return decided(
        [
            timed_row(
                SURFACE,
                seconds["ours"],
                seconds[f"{LossLandscapes.name}, {layout}"],
                forward,
                count=STEPS**2,
                peer=LossLandscapes.name,
                peer_layout=layout,
                note=f"seconds for {STEPS**2} points",
                **subject.columns,
            )
            for layout in LAYOUTS
        ]
    )
