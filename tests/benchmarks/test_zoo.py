"""The zoo proof: on networks made here it passes what it should, and each of its checks can fail; on a few of the
libraries', one of each kind of batch norm or forward pass, it passes.
"""

import sys

import pytest
import torch
import zoo
import zoo_checks
from torch import nn

from icsbound.norm import UnitizedBatchNorm2d


class Net(nn.Module):
    def __init__(self, norm_layer=nn.BatchNorm2d):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), norm_layer(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return {"logits": self.head(self.features(x).mean((2, 3)))}


class Bypassing(Net):
    """Uses the tensors of its batch norm without calling it, as no conversion can follow."""

    def forward(self, x):
        conv, bn, _ = self.features
        y = nn.functional.batch_norm(conv(x), None, None, bn.weight, bn.bias, training=True)
        return self.head(y.relu().mean((2, 3)))


class Subclassed(Net):
    def __init__(self):
        super().__init__(type("OwnBatchNorm2d", (nn.BatchNorm2d,), {}))


class Raising(Net):
    def forward(self, x):
        raise RuntimeError("needs an operator that is not here")


class Spoiled(Net):
    """Does something else as soon as its layers are ours."""

    def forward(self, x):
        y = super().forward(x)["logits"]
        return y * 1.001 if isinstance(self.features[1], UnitizedBatchNorm2d) else y


class Chaotic(Net):
    """Amplifies rounding from layer to layer: by five where statistics do not fit, by the factor where they do."""

    def __init__(self, factor=1.5):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(32))
        self.factor = factor

    def forward(self, x):
        y = self.features[0](x)
        for norm in self.norms:
            y = (self.factor * norm(1e6 * y)).sin()
        return self.head(y.mean((2, 3)))


def tried(build, name="net"):
    return zoo.tried("here", name, build, max_parameters=1e4, seconds=60)


def test_a_plain_network_passes():
    row = tried(Net)
    assert (row.verdict, row.layers, row.size) == ("passed", 1, 64)
    assert 0 <= row.error < 1e-12
    row = tried(Net, "net(norm_layer)")
    assert (row.verdict, row.layers) == ("passed", 1)


@pytest.mark.parametrize(
    ("build", "verdict", "why"),
    [
        (lambda: nn.Linear(3, 3), "not run", "no batch norm"),
        (lambda: nn.Sequential(nn.Linear(200, 200), nn.BatchNorm1d(200)), "not run", "more than 10000 parameters"),
        (Raising, "not run", "the original does not run: RuntimeError: needs an operator that is not here"),
        (Subclassed, "refused", "which may do more than batch norm"),
        (Bypassing, "failed", "does not depend on alpha"),
        (lambda: Chaotic(factor=20), "not run", "the original's output is decided by rounding"),
        (Spoiled, "failed", "evaluation 0 differs by 1.0e-03 of the largest entry"),
    ],
    ids=["no batch norm", "too large", "not running", "a subclass", "bypassed", "chaotic", "another result"],
)
def test_others_do_not(build, verdict, why):
    row = tried(build)
    assert row.verdict == verdict
    assert why in row.why


def test_statistics_are_settled_where_rounding_would_decide(monkeypatch):
    row = tried(Chaotic)
    assert (row.verdict, row.layers) == ("passed", 32)
    monkeypatch.setattr(zoo_checks, "settle", lambda model, x: None)
    assert tried(Chaotic).why == "the original's output is decided by rounding"


def test_missing_results_are_a_failure():
    with pytest.raises(zoo_checks.Failed, match="has other results"):
        zoo_checks.deviation({}, {"gradient of w": torch.ones(1)})


def test_the_table_counts_what_was_compared():
    rows = [tried(Net), tried(Subclassed), tried(Raising), tried(Net, "net(norm_layer)")]
    text = zoo.table(rows)
    assert "| here | 1 | 1 | 0 | 1 | 1 |" in text
    assert "| here, norm_layer= | 1 | 0 | 0 | 0 | 1 |" in text  # a build is no further model of the library
    assert "- refused: a " in text
    assert "- not run: the original does not run: RuntimeError" in text


def run_zoo(monkeypatch, out, *flags):
    monkeypatch.setattr(zoo, "zoo", lambda library: {"net": Net, "raising": Raising, "greedy": Greedy})
    monkeypatch.setattr(zoo, "limit_memory", lambda gigabytes: None)  # the limit would be that of all tests
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--library", "timm", "--out", str(out), *flags])
    return zoo.main()


class Greedy(Net):
    def forward(self, x):
        return torch.empty(2**50) if len(self.head.weight) else None


def test_a_run_goes_on_where_it_stopped(monkeypatch, tmp_path):
    out = tmp_path / "zoo.jsonl"
    assert run_zoo(monkeypatch, out, "--match", "n*") == 0
    out.write_text(out.read_text() + '{"library": "timm", "mod')  # stopped within a line
    assert run_zoo(monkeypatch, out) == 0
    assert [row.model for row in zoo.done(out, again=False)] == ["net", "raising", "greedy"]
    assert run_zoo(monkeypatch, out) == 0
    assert len(out.read_text().splitlines()) == 4  # nothing was left to try


def test_two_runs_share_the_models(monkeypatch, tmp_path, capsys):
    for part, own in (("1/2", ["net", "greedy"]), ("2/2", ["raising"])):
        out = tmp_path / part[0]
        assert run_zoo(monkeypatch, out, "--shard", part) == 0
        assert [row.model for row in zoo.done(out, again=False)] == own
    with pytest.raises(SystemExit):
        run_zoo(monkeypatch, out, "--shard", "3/2")
    assert "--shard: must be I/N with 1 <= I <= N, got '3/2'" in capsys.readouterr().err


def test_what_wanted_time_or_memory_can_be_tried_again(tmp_path):
    out = tmp_path / "zoo.jsonl"
    whys = ["took longer than 3 s", "took more memory than it may", "more than 1e+06 parameters", "no batch norm"]
    for name, why in zip("abcd", whys, strict=True):
        zoo.add(out, zoo.Row("timm", name, "not run", why))
    assert [row.model for row in zoo.done(out, again=True)] == ["d"]


def test_memory_that_is_not_there_is_no_failure(monkeypatch):
    def proved(*_):
        torch.empty(2**60, dtype=torch.int8)

    monkeypatch.setattr(zoo, "proved", proved)
    row = tried(Net)
    assert (row.verdict, row.why) == ("not run", "took more memory than it may")


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("library", "name", "layers"),
    [
        ("torchvision", "resnet18", 20),
        ("torchvision", "shufflenet_v2_x0_5", 56),
        ("torchvision", "resnet18(norm_layer)", 20),
        ("timm", "ghostnet_050", 80),
        ("timm", "levit_128s", 52),
        ("timm", "efficientnet_lite0", 49),
        ("timm", "seresnet18(norm_layer)", 20),
    ],
)
def test_networks_of_the_libraries(library, name, layers):
    row = zoo.tried(library, name, zoo.zoo(library)[name], max_parameters=40e6, seconds=300)
    assert (row.verdict, row.why, row.layers) == ("passed", "", layers)
    assert row.error < 1e-9
