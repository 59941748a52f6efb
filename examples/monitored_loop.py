"""A monitor in a training loop of one's own: records to a file, cheap bounds in between, and an alert.

The alert hears of every layer that has moved by more than half of its spread since the training began.
"""

import tempfile
from pathlib import Path

import common
import pictures
import torch
from torch import nn

from icsbound import ICSMonitor, records


def main(steps: int = 40) -> list[records.Record]:
    model = common.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)

    def alert(record: records.VerdictRecord) -> None:
        print(f"step {record.step_b}: {record.layer} moved by more than {record.smallest} spreads (p = {record.p:.1g})")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        with records.Writer(path) as writer:
            monitor = ICSMonitor(
                model,
                common.PROBE[:128],
                every=20,
                cheap_every=5,
                views="pooled",
                against="first",
                sink=writer.write,
                smallest=0.5,
                alert=alert,
            )
            cost, *_ = monitor.step(0)
            assert isinstance(cost, records.CostRecord)
            print(f"a pass over the probe takes {cost.capture:.2f} s, and all distances about {cost.distances:.2f} s")
            for step in range(1, steps + 1):
                batch = torch.randint(len(common.SPLITS.train), (64,), generator=generator)
                images, labels = common.NORMALIZE(common.SPLITS.train.images[batch]), common.SPLITS.train.labels[batch]
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.step(step)
        found = records.read(path)
    pictures.over_steps((r for r in found if getattr(r, "layer", "") in ("blocks.0.norms.1", "norm")), "monitored")
    print(f"{len(found)} records; measuring took {monitor.seconds:.2f} s")
    return found


if __name__ == "__main__":
    main()
