"""What a computation cost: passes over all samples, by kind and precision, and seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """Passes over all samples and seconds of wall time, immutable; costs add and subtract.

    What an estimate cost is `objective.cost` after it minus `objective.cost` before it.

    Attributes:
        passes: Kind and precision → number of whole passes, one per vector or point: a product with
            16 vectors is 16 passes of "hessian_vector_product float32". Kinds are "value",
            "gradient", "hessian_vector_product", "gauss_newton_vector_product",
            "second_directional_derivative" and "directional_derivative" (of the activations, which
            locates kinks).
        seconds: Wall time of those passes.
    """

    passes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return self._combine(other, 1)

    def __sub__(self, other: Cost) -> Cost:
        return self._combine(other, -1)

    def _combine(self, other: Cost, sign: int) -> Cost:
        passes = Counter(dict(self.passes))
        for kind, count in other.passes.items():
            passes[kind] += sign * count
        return Cost(
            {kind: count for kind, count in sorted(passes.items()) if count},
            self.seconds + sign * other.seconds,
        )
