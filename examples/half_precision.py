"""One network in float32 and in bfloat16: the error of each layer's output, in units of its spread.

Both compute the same function up to rounding. A paired probe sees even that, since sampling noise is the same on
both sides and cancels: look at the size of the distance beside the verdict.
"""

import copy

import common
import torch

from icsbound import capture


def main() -> dict[str, str]:
    model = common.train(common.network(), steps=40)
    half = copy.deepcopy(model).to(torch.bfloat16)
    before = capture(model, common.PROBE, view="pooled")
    after = capture(half, common.PROBE.to(torch.bfloat16), view="pooled")
    return common.verdicts("bfloat16, against float32", before, after)


if __name__ == "__main__":
    main()
