"""A network against copies with fewer bits and fewer weights: where does what was saved change the layers?

The verdict says whether a layer moved, the spreads say how far: rounding to 16 bits is seen, and means nothing. Last,
the pruned one as a command on two files of weights.
"""

import copy

import common

from icsbound import capture
from icsbound.training.perturb import perturb


def main() -> dict[str, dict[str, str]]:
    full = common.train(common.network(), steps=40)
    before = capture(full, common.PROBE, view="pooled")
    found = {}
    for change in ("quantize:16", "quantize:4", "prune:0.5"):
        smaller = copy.deepcopy(full)
        perturb(smaller, change)
        after = capture(smaller, common.PROBE, view="pooled")
        found[change] = common.verdicts(f"{change}, against the full network", before, after)
    common.command({"full": full, "pruned": smaller})
    return found


if __name__ == "__main__":
    main()
