"""What the Earth Mover distance does, as a picture: a layer of two units at two training steps, and the map between.

Each line goes from where an earlier output lay to the dot where the best transport moves its mass; the distance is
the lines' mean length. Where the transport pairs an input with itself the line is gray; where it found something
shorter it is coloured: there the *distribution* moved less than the single inputs did.
"""

from __future__ import annotations

import altair as alt
import common
import pandas as pd
import pictures
import torch
from torch import nn

from icsbound import capture, emd


def main() -> tuple[float, float, float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 64), nn.ReLU(), nn.Linear(64, 2), nn.Linear(2, 10))
    probe = common.PROBE[:120]
    before = capture(common.train(model, steps=60, lr=0.02), probe, layers=["3"])["3"]
    after = capture(common.train(model, steps=30, lr=0.02), probe, layers=["3"])["3"]
    result = emd(before, after)

    target = after[result.matching]
    kept = (result.matching == torch.arange(len(probe))).tolist()
    table = pd.DataFrame(
        {
            "x": before[:, 0].tolist(),
            "y": before[:, 1].tolist(),
            "x2": target[:, 0].tolist(),
            "y2": target[:, 1].tolist(),
            "pair": ["the input itself" if same else "another input" for same in kept],
        }
    )
    colour = alt.Color("pair:N", title="mass goes to the place of")
    colour = colour.scale(domain=["the input itself", "another input"], range=["#b4bac4", "#e08a00"])
    base = alt.Chart(table, width=460, height=460)
    rules = base.mark_rule(size=1.5).encode(
        x=alt.X("x:Q", title="first unit"), y=alt.Y("y:Q", title="second unit"), x2="x2:Q", y2="y2:Q", color=colour
    )
    heads = base.mark_point(filled=True, size=34, opacity=1).encode(x="x2:Q", y="y2:Q", color=colour)
    title = f"W1 = {result.value:.3f}; the inputs themselves moved by {result.paired:.3f} on average"
    pictures.save((rules + heads).properties(title=title), "transport")
    share = sum(kept) / len(kept)
    print(f"{title}; {share:.0%} of the inputs keep their own place; certified to {result.gap:.1e}")
    return result.value, result.paired, share


if __name__ == "__main__":
    main()
