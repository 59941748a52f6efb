"""Records as scalars, read back from TensorBoard's own files."""

from pathlib import Path

import networks
import pytest
from torch.utils.tensorboard import SummaryWriter

from icsbound.measure.monitor import ICSMonitor
from icsbound.measure.sinks import scalars
from icsbound.records import CostRecord, DistanceRecord, RunRecord

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = networks.cnn()
    with SummaryWriter(tmp_path) as writer:
        monitor = ICSMonitor(model, networks.images(6), every=2, cheap_every=1, sink=scalars(writer))
        found = [record for step in range(3) for record in monitor.step(step)]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    quantities = ("value", "lower", "paired", "independent", "mean_shift", "norms", "scale", "scale_free")
    expected = {f"{v} {q}/{la}" for v in ("pooled", "sample") for q in quantities for la in ("1", "4", "9")}
    expected |= {f"cost/{field}" for field in ("capture", "distances", "training", "share")}
    assert tags == expected | {f"{q}/{la}" for q in ("weight_mean", "weight_max") for la in ("1", "4", "9")}
    shares = {e.step: e.value for e in events.Scalars("cost/share")}
    for record in found:
        if isinstance(record, CostRecord):
            assert shares.get(record.step) == (None if record.share is None else pytest.approx(record.share))
        if isinstance(record, DistanceRecord):
            paired = {e.step: e.value for e in events.Scalars(f"{record.view} paired/{record.layer}")}
            assert paired[record.step_b] == pytest.approx(record.paired)
            exact = {e.step: e.value for e in events.Scalars(f"{record.view} value/{record.layer}")}
            assert exact.get(record.step_b) == (None if record.value is None else pytest.approx(record.value))


def test_other_records_pass_by() -> None:
    class Refusing:
        def add_scalar(self, *args: object) -> None:
            pytest.fail("nothing to note")

    fields = dict.fromkeys(("arm", "dataset", "model", "split", "device"), "x")
    numbers = dict.fromkeys(("seed", "parameters", "train_size", "evaluation_size", "epochs", "steps", "batch_size"), 1)
    scalars(Refusing())(RunRecord(run="r", versions={}, **fields, **numbers))
