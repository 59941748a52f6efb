"""One network on other data: do its layers see a change of contrast, and would they see another sample of the same?

The second comparison has no pairs: its two halves are different digits of the same kind. There the distance is what
sampling alone gives, far from 0, and the verdict does not take it for a shift. Last comes the first comparison as a
command, on the weights in a file.
"""

import common

from icsbound import capture
from icsbound.training.corruptions import corrupt


def main() -> dict[str, dict[str, str]]:
    model = common.train(common.network(), steps=40)
    images = common.SPLITS.test.images
    pale = common.NORMALIZE(corrupt(images[::4], "contrast", 2))
    other = common.NORMALIZE(images[2::4])
    before = capture(model, common.PROBE, view="pooled")
    found = {
        name: common.verdicts(f"{name}, against the probe", before, capture(model, probe, view="pooled"))
        for name, probe in (("the same digits with less contrast", pale), ("other digits", other))
    }
    common.command({"network": model}, "--data-b", "digits:shift=contrast,severity=2", "--smallest", "0.1")
    return found


if __name__ == "__main__":
    main()
