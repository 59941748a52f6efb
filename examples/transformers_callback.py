"""A monitor as a callback of the Hugging Face Trainer, on a small transformer of GPT-2's architecture, untrained.

The network learns to repeat the first half of a sequence of tokens. Its layer norms are followed, at random positions
and in the mean over positions; the probe is handed over by name, as the trainer hands over its batches. The monitor's
state lies in the trainer's checkpoints, so that a training that is resumed goes on with the same references.
"""

import tempfile
from pathlib import Path
from typing import Any

import pictures
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from icsbound import ICSMonitor, records

TOKENS, LENGTH = 16, 12


class Monitor(TrainerCallback):
    """Measures at the start of the training and after every optimizer step that the schedule names.

    Arguments are those of `ICSMonitor`, but for the model, which is the one that is trained.
    """

    def __init__(self, probe: dict[str, Tensor], **settings: Any) -> None:
        self.probe, self.settings = probe, settings
        self.monitor: ICSMonitor | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, _: TrainerControl, **given: Any) -> None:
        if not state.is_world_process_zero:
            return
        model = given["model"]
        probe = {name: value.to(model.device) for name, value in self.probe.items()}
        self.monitor = ICSMonitor(model, probe, **self.settings)
        if state.global_step == 0:
            self.monitor.step(0)
        else:
            self.monitor.load_state_dict(torch.load(self.file(args, state), weights_only=True))

    def on_step_end(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        if self.monitor is not None:
            self.monitor.step(state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, _: TrainerControl, **__: Any) -> None:
        if self.monitor is not None:
            torch.save(self.monitor.state_dict(), self.file(args, state))

    def file(self, args: TrainingArguments, state: TrainerState) -> Path:
        """Where the monitor's state lies beside the trainer's checkpoint of a step."""
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "monitor.pt"


def sequences(n: int, seed: int) -> Tensor:
    """n sequences whose second half repeats the first."""
    half = torch.randint(TOKENS, (n, LENGTH // 2), generator=torch.Generator().manual_seed(seed))
    return torch.cat([half, half], dim=1)


def train(folder: str, steps: int, sink: Any, resume: bool) -> None:
    """Train to a step, from the beginning or from the last checkpoint in the folder."""
    set_seed(0)
    config = GPT2Config(
        vocab_size=TOKENS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    watch = Monitor({"input_ids": sequences(128, seed=1)}, every=20, views=("pooled", "position"), sink=sink)
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        save_steps=20,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    examples = [{"input_ids": row, "labels": row} for row in sequences(1280, seed=0)]
    trainer = Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=examples, callbacks=[watch])
    trainer.remove_callback(PrinterCallback)  # so that this prints what it measured and nothing else
    trainer.train(resume_from_checkpoint=resume)


def main() -> list[records.Record]:
    found: list[records.Record] = []
    with tempfile.TemporaryDirectory() as folder:
        train(folder, 20, found.append, resume=False)
        train(folder, 40, found.append, resume=True)
    for record in found:
        if isinstance(record, records.DistanceRecord) and record.view == "position":
            print(f"steps {record.step_a:2} to {record.step_b}: {record.layer:<22} {record.scale_free:.3f} spreads")
    pictures.over_steps((r for r in found if getattr(r, "view", "") == "position"), "transformers")
    return found


if __name__ == "__main__":
    main()
