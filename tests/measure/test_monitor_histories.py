"""Any history of a monitor (steps, failures, saving and loading) leaves the references that its steps name."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from torch import nn

from icsbound import records
from icsbound.measure.capture import capture
from icsbound.measure.emd import emd
from icsbound.measure.monitor import ICSMonitor
from icsbound.records import DistanceRecord

PROBE = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


class Histories(RuleBasedStateMachine):
    """Beside the monitor, the clouds of every step that it measured without failing."""

    @initialize(against=st.sampled_from(["previous", "first", 1, 2, 3]), exact=st.integers(1, 3))
    def begin(self, against: str | int, exact: int) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        self.against, self.exact = against, exact
        self.fails_in: int | None = None
        self.step = 0
        self.taken: list[tuple[int, torch.Tensor]] = []
        self.monitor = self.fresh()

    def fresh(self) -> ICSMonitor:
        """A monitor of these settings."""
        return ICSMonitor(
            self.model,
            PROBE,
            every=lambda step: step % self.exact == 0,
            cheap_every=1,
            against=self.against,
            views="pooled",
            sink=self.sink,
        )

    def sink(self, record: records.Record) -> None:
        """Fails at the record that was fixed, once."""
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise OSError("the disk is full")

    def reference(self) -> tuple[int, torch.Tensor] | None:
        """The capture that the next one is measured against."""
        if self.against == "first":
            return self.taken[0] if self.taken else None
        back = 1 if self.against == "previous" else self.against
        return self.taken[-back] if len(self.taken) >= back else None

    @rule(by=st.floats(-2, 2), training=st.booleans())
    def train(self, by: float, training: bool) -> None:
        """What an optimizer's step and an evaluation between two of them change."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(by * torch.ones_like(parameter).cumsum(0))
        self.model.train(training)

    @rule()
    def measure(self) -> None:
        before, reference = copy.deepcopy(self.model.state_dict()), self.reference()
        found = [r for r in self.monitor.step(self.step) if isinstance(r, DistanceRecord)]
        cloud = capture(self.model, PROBE, view="pooled")["1"]
        if reference is None:
            assert found == []
        else:
            (only,) = found
            assert (only.step_a, only.step_b) == (reference[0], self.step)
            right = emd(reference[1], cloud).value
            if self.step % self.exact == 0:
                assert only.value == right
            assert only.mean_shift <= right * (1 + 1e-6) + 1e-6
            assert only.paired >= right * (1 - 1e-6) - 1e-6
        assert all(torch.equal(tensor, before[name]) for name, tensor in self.model.state_dict().items())
        self.taken.append((self.step, cloud))
        self.step += 1

    @rule(record=st.integers(0, 1))
    def fail(self, record: int) -> None:
        """A sink that raises at one of the records: the step counts as not measured, and may be taken again."""
        self.fails_in = record
        with pytest.raises(OSError, match="the disk is full"):
            self.monitor.step(self.step)
        self.step += self.step % 2

    @rule()
    def fail_in_the_model(self) -> None:
        handle = self.model[3].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(RuntimeError, match="the model raised ZeroDivisionError"):
            self.monitor.step(self.step)
        handle.remove()

    @rule()
    def save_and_load(self) -> None:
        stream = io.BytesIO()
        torch.save(self.monitor.state_dict(), stream)
        stream.seek(0)
        self.monitor = self.fresh()
        self.monitor.load_state_dict(torch.load(stream, weights_only=True))
        assert self.monitor.last_step == (self.taken[-1][0] if self.taken else None)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=12, deadline=None, derandomize=True)
