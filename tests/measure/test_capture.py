"""Captured outputs are those the layers give, for every kind of model, and bad input is named."""

import re
import warnings
from collections import OrderedDict
from dataclasses import dataclass

import networks
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Lambda
from torch import nn

from icsbound._check import InputError
from icsbound.measure import capture as module
from icsbound.measure import views
from icsbound.measure.capture import capture


def test_outputs_are_those_of_the_layers() -> None:
    model, probe = networks.cnn().double(), networks.images(10).double()
    expected, x = {}, probe
    with torch.no_grad():
        for index, layer in enumerate(model.eval()):
            x = layer(x)
            expected[str(index)] = x.clone().flatten(1)
    found = capture(model.train(), probe, "?", batch_size=3)
    assert list(found) == list(expected)
    for name, cloud in found.items():
        assert cloud.dtype == torch.float64
        assert not cloud.requires_grad
        torch.testing.assert_close(cloud, expected[name])


def test_inputs_are_what_the_layer_is_given() -> None:
    model, probe = networks.cnn(), networks.images(10)
    inputs, outputs = capture(model, probe, side="inputs"), capture(model, probe, ["0", "3", "8"])
    assert list(inputs) == ["1", "4", "9"]
    assert all(torch.equal(a, b) for a, b in zip(inputs.values(), outputs.values(), strict=True))


def test_inputs_by_keyword() -> None:
    model = Lambda(lambda self, x: self.inner(input=2 * x), inner=nn.Linear(3, 3))
    probe = torch.randn(4, 3)
    assert torch.equal(capture(model, probe, "inner", side="inputs")["inner"], 2 * probe)


@given(n=st.integers(1, 300), batch_size=st.integers(1, 310))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_batches_cover_the_probe_evenly(n, batch_size) -> None:
    batches = module._batches(n, batch_size)
    sizes = [rows.stop - rows.start for rows in batches]
    assert [row for rows in batches for row in range(n)[rows]] == list(range(n))
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("view", views.VIEWS)
def test_memory_format_does_not_matter(view) -> None:
    model, probe = networks.cnn().double(), networks.images(5).double()
    expected = capture(model, probe, "?", view=view, channel_axis=1)
    model, probe = (x.to(memory_format=torch.channels_last) for x in (model, probe))
    for name, cloud in capture(model, probe, "?", view=view, channel_axis=1).items():
        assert cloud.is_contiguous()
        torch.testing.assert_close(cloud, expected[name])


def test_the_surrounding_autocast_applies() -> None:
    model, probe = networks.cnn(), networks.images(5)
    with torch.autocast("cpu"):
        found = capture(model, probe, ["0", "9"])
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_cache_enabled()
    assert {cloud.dtype for cloud in found.values()} == {torch.bfloat16}
    assert capture(model, probe, "0")["0"].dtype == torch.float32


def test_named_layers_keep_the_order_of_the_model_not_of_their_calls() -> None:
    model = Lambda(lambda self, x: self.a(self.b(x)), a=nn.BatchNorm1d(3), b=nn.BatchNorm1d(3))
    assert list(capture(model, torch.randn(4, 3), ["b", "a"])) == ["a", "b"]


@pytest.mark.parametrize("batch_first", [True, False])
def test_transformer(batch_first) -> None:
    """Norms inside a fused encoder, with a mask by keyword, whatever the order of its axes."""
    model = networks.Classifier(batch_first).eval()
    probe = {"tokens": networks.tokens(9), "mask": torch.arange(7) >= torch.randint(3, 8, (9, 1))}
    axis = 0 if batch_first else 1
    found = capture(model, probe, view="pooled", batch_size=4, sample_axis=axis)
    assert [cloud.shape for cloud in found.values()] == [(9, 8)] * 4
    last = model.encoder.layers[1].norm2
    kept = []
    handle = last.register_forward_hook(lambda *args: kept.append(args[2]))
    model(**probe)
    handle.remove()
    torch.testing.assert_close(found["encoder.layers.1.norm2"], kept[0].mean(1 - axis).detach())
    everything = capture(model, probe, nn.TransformerEncoderLayer, view="pooled", sample_axis=axis)
    assert list(everything) == ["encoder.layers.0", "encoder.layers.1"]


def test_several_calls_in_one_pass() -> None:
    model = Lambda(
        lambda self, x: self.norm(self.lin(self.norm(x))), norm=nn.BatchNorm1d(3), lin=nn.Linear(3, 3)
    ).eval()
    probe = torch.randn(5, 3)
    found = capture(model, probe, ["norm", "lin"], batch_size=2)
    assert list(found) == ["norm#0", "norm#1", "lin"]
    with torch.no_grad():
        torch.testing.assert_close(found["norm#0"], model.norm(probe))
        torch.testing.assert_close(found["norm#1"], model(probe))


@dataclass
class Output:
    loss: torch.Tensor | None
    logits: list[torch.Tensor]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (y, y + 1),
        lambda y: [None, {"a": y}],
        lambda y: OrderedDict(none=None, out=y, other=y + 1),
        lambda y: Output(None, [y, y + 1]),
    ],
)
def test_the_first_tensor_of_an_output_counts(wrap) -> None:
    model = Lambda(lambda self, x: self.inner(x), inner=Lambda(lambda self, x: wrap(x * 2)))
    probe = torch.randn(5, 3)
    assert torch.equal(capture(model, probe, "inner")["inner"], probe * 2)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: ("no", {}), "tuple"),
        (lambda x: x.long(), "a tensor of dtype int64"),
        (lambda x: x.to(torch.float8_e5m2), "a tensor of dtype float8_e5m2"),
    ],
)
def test_outputs_without_a_tensor_that_can_be_measured(output, got) -> None:
    model = Lambda(lambda self, x: self.inner(x), inner=Lambda(lambda self, x: output(x)))
    right = "a tensor of dtype float16, bfloat16, float32 or float64"
    message = f"outputs of layer 'inner' must hold {right} to be measured, got {got}"
    with pytest.raises(InputError, match=message):
        capture(model, torch.randn(5, 3), "inner")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: x[:, :0], r"must hold values, got a tensor of shape \(5, 0\)"),
        (lambda x: x.to_sparse(), "must be dense to be measured, got a sparse_coo tensor"),
        (
            lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
            "must be dense to be measured, got a nested tensor",
        ),
    ],
    ids=["empty", "sparse", "nested"],
)
def test_outputs_that_are_no_cloud(output, message) -> None:
    model = Lambda(lambda self, x: self.inner(x), inner=Lambda(lambda self, x: output(x)))
    for view in views.VIEWS:
        with pytest.raises(InputError, match=f"^outputs of layer 'inner' {message}"):
            capture(model, torch.randn(5, 3), "inner", view=view, channel_axis=1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"seed": "a"}, "seed must be an integer of at least 0, got 'a'"),
        ({"sample_axis": "x"}, "sample_axis must be the number of an axis, got 'x'"),
        ({"channel_axis": 1.5}, r"channel_axis must be the number of an axis, got 1\.5"),
    ],
    ids=str,
)
def test_choices_of_another_kind_are_not_laid_at_the_models_door(choice, message) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        capture(networks.cnn(), networks.images(4), **choice)


def test_a_model_that_writes_into_its_input() -> None:
    model = Lambda(lambda self, x: self.norm(x.mul_(2)), norm=nn.BatchNorm1d(3)).eval()
    probe, statistics = torch.randn(6, 3), torch.randn(5, 3)
    before = probe.clone(), statistics.clone()
    capture(model, probe, law="frozen", statistics=statistics)
    capture(model, (probe,))
    assert torch.equal(probe, before[0])
    assert torch.equal(statistics, before[1])


def test_probe_of_several_tensors() -> None:
    model = Lambda(lambda self, a, b, twice=False: self.norm(a + b) * (2 if twice else 1), norm=nn.BatchNorm1d(3))
    a, b = torch.randn(7, 3), torch.randn(7, 3)
    expected = capture(model, [a, b])["norm"]
    assert torch.equal(capture(model, (a, b, True), batch_size=2)["norm"], expected)
    assert torch.equal(capture(model, {"a": a, "b": b, "twice": True}, batch_size=3)["norm"], expected)


def test_a_layer_that_never_ran() -> None:
    model = Lambda(lambda self, x: self.used(x), used=nn.BatchNorm1d(3), unused=nn.BatchNorm1d(3))
    probe = torch.randn(4, 3)
    said = "layer 'unused' never ran on the probe: the model skips it there, or uses its parameters without calling it"
    for layers in ("unused", ["used", "unused"]):
        with pytest.raises(InputError, match=f"layers must run on the probe; {said}"):
            capture(model, probe, layers)
    with pytest.warns(UserWarning, match=f"{said}; it is left out") as caught:
        assert list(capture(model, probe)) == ["used"]
    assert caught[0].filename == __file__
    with pytest.raises(InputError, match="layers 'a', 'b' never ran"):
        capture(Lambda(lambda self, x: x, a=nn.BatchNorm1d(3), b=nn.BatchNorm1d(3)), probe)


def test_a_layer_asked_for_by_name_that_never_runs_is_named_after_the_first_batch() -> None:
    passes = []
    model = Lambda(lambda self, x: passes.append(len(x)) or x, norm=nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="layers must run on the probe; layer 'norm' never ran"):
        capture(model, torch.randn(9, 3), "norm", batch_size=3)
    assert passes == [3]


def test_the_projection_inside_attention_is_never_called() -> None:
    with pytest.warns(UserWarning, match=re.escape("'encoder.layers.0.self_attn.out_proj'")):
        found = capture(networks.Classifier(), networks.tokens(4), nn.Linear, view="pooled")
    assert list(found) == [*(f"encoder.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)), "head"]


@pytest.mark.parametrize("early", [True, False])
def test_a_layer_that_runs_in_some_batches_only(early) -> None:
    passes = []
    model = Lambda(
        lambda self, x: passes.append(1) or (self.norm(x) if (len(passes) < 3) == early else x), norm=nn.BatchNorm1d(3)
    )
    if early:
        message = (
            "layers must run equally often in every batch of the probe, but 'norm' ran 1 times in the first and 0 "
            "times in the batch of inputs 4 to 5"
        )
    else:
        message = "outputs of layer 'norm' must be there in every batch of the probe, but the first had none"
    with pytest.raises(InputError, match=message):
        capture(model, torch.randn(8, 3), [nn.BatchNorm1d, "Lambda"], batch_size=2)


def test_an_output_whose_size_varies() -> None:
    model = Lambda(lambda self, x: self.inner(x[:, : 2 + int(x[0, 0])]), inner=nn.Identity())
    probe = torch.zeros(4, 6)
    probe[2:, 0] = 1
    message = "outputs of layer 'inner' must have the same size in every batch, got 3 numbers an input after 2"
    with pytest.raises(InputError, match=message):
        capture(model, probe, "inner", batch_size=2)


def test_where_the_sample_is() -> None:
    model = Lambda(lambda self, x: self.norm(x.T), norm=nn.LayerNorm(6))
    message = r"sample_axis must be the axis of the 6 inputs in the values of layer 'norm', .* \(3, 6\), got 0"
    with pytest.raises(InputError, match=message):
        capture(model, torch.randn(6, 3))
    turned = capture(model, torch.randn(6, 3), sample_axis=1)["norm"]
    assert turned.shape == (6, 3)
    assert turned.is_contiguous()  # so that a monitor's state can be saved as it is


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_named(bad) -> None:
    model = nn.Sequential(nn.Identity(), nn.BatchNorm1d(2), Lambda(lambda self, x: torch.where(x > 90, bad, x)))
    model[1].eps = 0
    probe = torch.randn(9, 2)
    probe[7] = 100
    message = r"outputs of layer '2' \(view 'sample'\) must be finite, got NaN or infinity in 1 of 9 rows .* is row 7\)"
    with pytest.raises(InputError, match=message):
        capture(model, probe, ["1", "2"], batch_size=4)


def test_a_model_that_raises_midway() -> None:
    class Refused(Exception):
        pass

    def forward(self, x):
        y = self.norm(x)
        if bool((x > 90).any()):
            raise Refused("too large")
        return y

    model = Lambda(forward, norm=nn.BatchNorm1d(2), drop=nn.Dropout())
    model.drop.eval()
    probe = torch.randn(9, 2)
    probe[7] = 100
    before = [(m.training, len(m._forward_hooks)) for m in model.modules()], torch.get_rng_state()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    message = "the model raised Refused on inputs 6 to 8 of the probe: too large"
    with pytest.raises(RuntimeError, match=message) as caught:
        capture(model, probe, law="train", batch_size=3)
    assert isinstance(caught.value.__cause__, Refused)
    assert [(m.training, len(m._forward_hooks)) for m in model.modules()] == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(torch.equal(buffers[name], b) for name, b in model.named_buffers())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("images", "probe must be a tensor, a sequence of tensors or a mapping that holds tensors, got 'images'"),
        ({"a": 3}, "probe must be a tensor, a sequence of tensors or a mapping that holds tensors"),
        ([], "probe must be a tensor, a sequence of tensors or a mapping that holds tensors"),
        (torch.empty(0, 3), "probe must hold tensors of one length of at least 1"),
        (torch.tensor(1.0), "probe must hold tensors of one length of at least 1"),
        ((torch.ones(2, 3), torch.ones(3, 3)), r"probe must hold tensors of one length .*\[2, 3\].*\[3, 3\]"),
        (torch.ones(2, 3, device="meta"), "probe must be on cpu, where the model is, got a tensor on meta"),
        (torch.tensor([[1.0, 2, 3], [4, torch.nan, 6]]), r"probe must be finite, .* \(the first is row 1\)"),
        ([3, torch.ones(2), torch.tensor([1, torch.inf])], r"probe\[2\] must be finite, .* \(the first is row 1\)"),
        ({"x": torch.ones(1), "y": torch.tensor([torch.nan])}, r"probe\['y'\] must be finite"),
        ({"x": torch.ones(1), "y": torch.ones(1, device="meta")}, r"probe\['y'\] must be on cpu, .* got a tensor on m"),
    ],
)
def test_bad_probes_are_named_before_work_starts(probe, message) -> None:
    model = Lambda(lambda self, *args: pytest.fail("the model ran"), norm=nn.BatchNorm1d(3))
    with pytest.raises(InputError, match=message):
        capture(model, probe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"view": "pool"},
            r"view must be one of 'sample', 'pooled', 'position', 'projection', got 'pool' \(did you mean",
        ),
        ({"side": "out"}, "side must be one of 'outputs', 'inputs', got 'out'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"dimension": 1.5}, "dimension must be an integer of at least 1, got 1.5"),
    ],
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        capture(networks.cnn(), networks.images(2), **arguments)


def test_bad_models() -> None:
    with pytest.raises(InputError, match=r"model must be a torch.nn.Module, got <function"):
        capture(lambda x: x, torch.ones(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules announce themselves
        lazy = nn.Sequential(nn.LazyLinear(3), nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="model must have its parameters: run one forward pass first"):
        capture(lazy, torch.ones(2, 3))
