"""A bound of one's own: any 1-Lipschitz function gives a lower bound of the distance, and the exact value judges it.

Here the function is a unit's largest activation over the channels, max_c y_c: moving y by a distance moves it by no
more. It is compared with the bounds that the library knows, and with a false friend: the *sum* of the channels, which
is not 1-Lipschitz and so bounds nothing until it is divided by the root of their number.
"""

from __future__ import annotations

import math

import common
import pictures
from torch import Tensor

from icsbound import bounds, capture, emd


def by_function(a: Tensor, b: Tensor) -> float:
    """W1 of the laws of max_c y_c, a lower bound of W1(a, b): the distance on a line is the sorted values' mean gap."""
    return (a.amax(1).sort().values - b.amax(1).sort().values).abs().mean().item()


def main() -> list[tuple[str, float, float, float]]:
    model = common.network()
    before = capture(common.train(model, steps=20), common.PROBE, view="pooled")
    after = capture(common.train(model, steps=10), common.PROBE, view="pooled")
    rows = []
    for layer, a in before.items():
        b = after[layer]
        exact = emd(a, b).value
        mine = by_function(a, b)
        known = bounds.bracket(a, b).lower
        wrong = abs((a.sum(1) - b.sum(1)).mean().item())
        right = wrong / math.sqrt(a.shape[1])
        assert mine <= exact * (1 + 1e-9)
        assert right <= exact * (1 + 1e-9)
        claim = "which is false" if wrong > exact else "which happens to hold"
        print(f"{layer:<18} max {mine:.4f} <= EM {exact:.4f}; best known {known.value:.4f} ({known.name})")
        print(f"{'':<18} sum {wrong:.4f} <= EM, {claim}; divided by the root of the channels {right:.4f}")
        rows.append((layer, mine, exact, wrong))
    drawn = {
        "exact distance": {layer: exact for layer, _, exact, _ in rows},
        "max of the channels": {layer: mine for layer, mine, _, _ in rows},
        "sum of the channels, no bound": {layer: wrong for layer, _, _, wrong in rows},
    }
    pictures.by_layer(drawn, "bounds", "distance", "log")
    return rows


if __name__ == "__main__":
    main()
