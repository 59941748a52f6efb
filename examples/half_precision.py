"""One network in float32 and in bfloat16: the error of each layer's output, in units of its spread.

Both compute the same function up to rounding. A paired probe sees even that, since sampling noise is the same on
both sides and cancels. So say what counts as a shift: a tenth of a layer's spread, which no layer moved by.
Last, the same as a command, which runs the network of each file in the precision that its weights have there.
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
    found = common.verdicts("bfloat16, against float32", before, after, smallest=0.1)
    common.command({"float32": model, "bfloat16": half}, "--smallest", "0.1")
    return found


if __name__ == "__main__":
    main()
