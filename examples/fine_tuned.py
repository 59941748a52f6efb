"""A network before and after fine-tuning: which layers did it move, and how far?

The base knows all digits; it is tuned on the even ones with everything frozen but its last block. The layers before
that block cannot move, and the verdicts say so. Last, the same as a command on two files of weights.
"""

import copy

import common
from torch import nn

from icsbound import capture


def main() -> dict[str, str]:
    base = common.train(common.network(), steps=40)
    tuned = copy.deepcopy(base)
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_(name.startswith(("blocks.2.", "norm.", "head.")))
    for name, module in tuned.named_modules():
        if isinstance(module, nn.BatchNorm2d) and name.startswith(("blocks.0.", "blocks.1.")):
            module.momentum = 0.0  # frozen layers keep their running statistics too
    common.train(tuned, steps=40, keep=common.SPLITS.train.labels % 2 == 0)
    before, after = (capture(model, common.PROBE, view="pooled") for model in (base, tuned))
    found = common.verdicts("fine-tuned on even digits, against its base", before, after)
    common.command({"base": base, "tuned": tuned})
    return found


if __name__ == "__main__":
    main()
