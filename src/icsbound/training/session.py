"""What a config stands for: the data, model, optimizer and monitor of a run, built and checked before anything is
written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from icsbound import records
from icsbound._check import InputError, fail
from icsbound.measure.monitor import ICSMonitor
from icsbound.training import arms, batches, data, devices, models, recipes, seeds
from icsbound.training.config import TrainConfig
from icsbound.training.score import score
from icsbound.training.stream import Stream


class Session:
    """The objects of one run in one process, at step 0.

    `model` is what is trained (in a process group, wrapped) and `plain` the network itself; `batches` are this
    process's share, `steps` the optimizer steps of the whole run; `held_out` is the part that accuracy is taken on.
    Raises InputError for whatever cannot be built.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.accelerator = devices.accelerator(config.device, config.precision)
        self.main: bool = self.accelerator.is_main_process
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        recipe = config.recipe

        splits = load_splits(config)
        self.normalize = normalization(config, splits.train)
        self.held_out = self._moved(splits.part(config.split))
        self.batches = batches.Batches(
            self._shared(self._moved(splits.train)),
            recipe.batch_size,
            config.seed,
            augmentation(recipe, splits.train),
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.steps_per_epoch = len(self.batches)
        self.steps = recipe.epochs * self.steps_per_epoch

        if self.accelerator.num_processes > 1 and config.device == "cpu" and arms.parse(config.arm).batch_norm:
            # torch's synchronized batch norm refuses the CPU, and unsynchronized it would be another layer.
            fail(
                "arm",
                "be another on several CPU processes (unitized:alpha_init=0,frozen=true is batch norm)",
                config.arm,
            )
        model = network(config, splits.train, synchronized=self.accelerator.num_processes > 1).to(self.dtype)
        if config.device == "cpu" and (config.channels_last or config.compile):
            refuse_overrun(model, "channels_last" if config.channels_last else "compile")
        if config.channels_last:
            model = in_channels_last(model)
        optimizer = torch.optim.SGD(
            recipes.parameter_groups(model, recipe), lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
        prepared: tuple[nn.Module, torch.optim.Optimizer] = self.accelerator.prepare(model, optimizer)
        self.model, self.optimizer = prepared
        self.plain: nn.Module = self.accelerator.unwrap_model(self.model)
        if config.compile:  # the parameters stay those of `plain`, whose layers the monitor sees uncompiled
            self.model = cast(nn.Module, torch.compile(self.model))
        self.average: AveragedModel | None = None
        if recipe.ema:
            rule = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            with torch.device("cpu"):  # where it counts, whatever torch's default
                self.average = AveragedModel(self.plain, multi_avg_fn=rule, use_buffers=True)
        self.monitor = self._monitor() if self.main and config.monitor is not None else None

    def _moved(self, dataset: data.Dataset) -> data.Dataset:
        device = self.accelerator.device
        return dataclasses.replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))

    def _shared(self, dataset: data.Dataset) -> data.Dataset:
        images, world = dataset.images, self.accelerator.num_processes
        if world == 1 or not isinstance(images, Stream):
            return dataset
        return dataclasses.replace(dataset, images=images.shared(world, say=self.main))

    def _monitor(self) -> ICSMonitor:
        config = self.config.monitor
        assert config is not None
        if config.probe > len(self.held_out):
            fail("probe", f"be at most the {len(self.held_out)} images of the {self.config.split} part", config.probe)
        order = seeds.permutation(len(self.held_out), self.config.seed, "probe")
        index = order[: config.probe].to(self.held_out.images.device)
        return ICSMonitor(
            self.plain,
            self.normalize(self.held_out.images[index], self.dtype),
            run=self.config.run,
            every=config.schedule(self.steps),
            views=config.views,
            against=config.against,
            law=config.law,
            picture=config.picture,
        )

    def begin(self) -> None:
        """Let the network begin at the weights that its config names, if it names some."""
        if self.config.pretrained is not None:
            self.config.pretrained.put_into(self.plain, self.batches.dataset.classes)

    def first_record(self) -> records.RunRecord:
        """What is trained, and with what."""
        config = self.config
        return records.RunRecord(
            run=config.run,
            arm=config.arm,
            seed=config.seed,
            dataset=config.data,
            model=config.model,
            parameters=sum(p.numel() for p in self.plain.parameters()),
            train_size=len(self.batches.dataset),
            evaluation_size=len(self.held_out),
            split=config.split,
            epochs=config.recipe.epochs,
            steps=self.steps,
            batch_size=config.recipe.batch_size,
            device=config.device,
            versions=devices.versions(),
        )

    def score(self) -> tuple[float, float]:
        """Loss and accuracy on the held-out part now."""
        return score(self.result, self.held_out, self.normalize, self.dtype)

    @property
    def result(self) -> nn.Module:
        """The network that is evaluated and saved: the trained one, or the running average of it."""
        return self.plain if self.average is None else self.average.module

    def state(self) -> dict[str, Any]:
        """Everything that training changes, as plain values and tensors."""
        scaler = self.accelerator.scaler
        return {
            "model": self.plain.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to `state`."""
        self.plain.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.monitor is not None:
            self.monitor.load_state_dict(state["monitor"])

    def not_finite(self) -> str | None:
        """The name of the first parameter or buffer that holds NaN or infinity, None where all are finite."""
        for name, value in (*self.plain.named_parameters(), *self.plain.named_buffers()):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return name
        return None

    def first_bad_layer(self) -> str | None:
        """The name of the first layer whose output on training images is not finite, None where all are."""
        names: list[str] = []

        def look(name: str, output: Any) -> None:
            if isinstance(output, torch.Tensor) and not bool(torch.isfinite(output).all()):
                names.append(name)

        handles = [
            module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
            for name, module in self.plain.named_modules()
            if not any(module.children())
        ]
        with torch.no_grad():
            self.plain(self.normalize(self.batches.dataset.images[: self.config.recipe.batch_size], self.dtype))
        for handle in handles:
            handle.remove()
        return names[0] if names else None


def try_out(runs: Iterable[TrainConfig]) -> None:
    """Build one of `runs` for each arm and each batch size. Raises InputError for what cannot be trained."""
    tried = set[str | int]()
    for run in runs:
        parts: set[str | int] = {run.arm, run.recipe.batch_size}
        if not parts <= tried:
            tried |= parts
            Session(run).begin()


def in_channels_last(model: nn.Module) -> nn.Module:
    """`model` itself, its weights of four axes laid out with the channels last."""
    # torch declares no `to` of a memory format alone.
    moved: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def refuse_overrun(model: nn.Module, argument: str) -> None:
    """Raise InputError where oneDNN would write past its memory when `model` is trained in channels_last on a CPU, as
    `argument`, "channels_last" or "compile", has it: torch.compile lays convolutions out so by itself.

    It does in the backward pass of strided 1x1 convolutions (https://github.com/uxlfoundation/oneDNN/issues/6035): of
    fewer than 16 input channels with AVX-512, of fewer than 8 with AVX2. From which size of picture on depends on the
    processor's cache and on the threads too, and so is not asked: a run is refused on every processor or on none.
    """
    for name, layer in model.named_modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1) != layer.stride
            and layer.padding in ((0, 0), "valid")
            and layer.groups == 1
            and layer.in_channels < 16
        ):
            raise InputError(
                f"{argument} must be False (--no-{argument.replace('_', '-')}) where a strided 1x1 convolution has "
                f"fewer than 16 input channels, got True and layer {name!r}, which has {layer.in_channels}: on a CPU, "
                "oneDNN writes past its memory there"
            )


def augmentation(recipe: recipes.Recipe, train: data.Dataset) -> batches.Augment:
    """What `recipe` does at random to the images of the training part."""
    return batches.Augment(
        round(recipe.shift * train.images.shape[-1]), recipe.flip, recipe.crop_scale, recipe.crop_ratio
    )


def normalization(config: TrainConfig, train: data.Dataset, standardize: bool = False) -> data.Normalize:
    """How images become inputs: by the statistics that config gives or else those of the training part, or each by its
    own if config or `standardize` says so.
    """
    each = config.standardize or standardize
    if config.mean is None or config.std is None:
        return dataclasses.replace(data.Normalize.of(train), each=each, divide_by=config.divide_by)
    if len(config.mean) != (channels := train.images.shape[1]):
        fail(
            "mean and std", f"be of {channels} channels, as the images of {train.name} have", (config.mean, config.std)
        )
    mean, std = (
        255.0 * torch.tensor(values, dtype=torch.float64, device="cpu") for values in (config.mean, config.std)
    )
    return data.Normalize(mean, std, each=each, divide_by=config.divide_by)


def load_splits(config: TrainConfig) -> data.Splits:
    """The data of `config`; nothing is held out for validation where the test part is evaluated."""
    names = ("skip_bad", "image_size", "in_memory", "stream", "workers", "image_column", "label_column")
    return data.load(
        config.data,
        config.seed,
        data_dir=config.data_dir,
        hold_out=config.hold_out if config.split == "validation" else 0.0,
        keep=config.recipe.eval_crop,
        **{name: getattr(config, name) for name in names},
    )


def begun(config: TrainConfig, dataset: data.Dataset) -> nn.Module:
    """The network of `config` as its training begins: at random weights, or at those of a file."""
    model = network(config, dataset)
    if config.pretrained is not None:
        config.pretrained.put_into(model, dataset.classes)
    return model


def network(config: TrainConfig, dataset: data.Dataset, *, synchronized: bool = False) -> nn.Module:
    """The untrained network of `config` for the images of `dataset`, its batch statistics `synchronized` over
    processes or not.
    """
    return models.network(
        config.model,
        arms.parse(config.arm),
        classes=dataset.classes,
        channels=dataset.images.shape[1],
        size=dataset.images.shape[-1],
        seed=config.seed,
        dropout=config.dropout,
        synchronized=synchronized,
    )
