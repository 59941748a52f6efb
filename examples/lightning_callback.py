"""A monitor as a callback of Lightning's trainer: on the trainer's steps, saved and resumed with its checkpoints.

The training is broken off after 20 steps and goes on from its checkpoint, and so does the monitor: the second distance
is from step 20 to 40.
"""

import tempfile
import warnings
from typing import Any

import common
import lightning
import pictures
import torch
from torch import Tensor, nn

from icsbound import ICSMonitor, records

warnings.filterwarnings("ignore", module="lightning")  # its use of torch, and its advice on data loaders


class Monitor(lightning.Callback):
    """Measures after every optimizer step that the schedule names, on the first process alone.

    Arguments are those of `ICSMonitor`, but for the model, which is the module that is trained: its `forward` takes the
    probe.
    """

    def __init__(self, probe: Tensor, **settings: Any) -> None:
        self.probe, self.settings = probe, settings
        self.monitor: ICSMonitor | None = None
        self.state: dict[str, Tensor] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.monitor = ICSMonitor(module, self.probe.to(module.device), **self.settings)
        if self.state:
            self.monitor.load_state_dict(self.state)
        else:
            self.monitor.step(0)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        if self.monitor is not None and trainer.global_step > self.seen:
            self.monitor.step(trainer.global_step)  # with gradients accumulated, several batches make one step

    @property
    def seen(self) -> int:
        """The last step that was measured."""
        return -1 if self.monitor is None or self.monitor.last_step is None else self.monitor.last_step

    def state_dict(self) -> dict[str, Any]:
        return {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


class Classifier(lightning.LightningModule):
    """The small residual network on digits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = common.network()

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network(images)
        return scores

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def train_dataloader(self) -> torch.utils.data.DataLoader[tuple[Tensor, ...]]:
        train = common.SPLITS.train
        data = torch.utils.data.TensorDataset(common.NORMALIZE(train.images), train.labels)
        return torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)


def fit(callback: Monitor, steps: int, resume: str | None = None) -> lightning.Trainer:
    """Train to a step, from the beginning or from a checkpoint."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), ckpt_path=resume)
    return trainer


def main() -> list[records.Record]:
    lightning.seed_everything(0, verbose=False)
    found: list[records.Record] = []
    settings = {"every": 20, "views": "pooled", "sink": found.append}
    with tempfile.TemporaryDirectory() as folder:
        fit(Monitor(common.PROBE, **settings), 20).save_checkpoint(f"{folder}/half.ckpt")
        fit(Monitor(common.PROBE, **settings), 40, resume=f"{folder}/half.ckpt")  # goes on from where it was
    for record in found:
        if isinstance(record, records.DistanceRecord):
            print(f"steps {record.step_a:2} to {record.step_b}: {record.layer:<24} {record.scale_free:.3f} spreads")
    pictures.over_steps(found, "lightning")
    return found


if __name__ == "__main__":
    main()
