"""The closed form against autograd through the definition, in every setting; higher orders, transforms."""

import pytest
import torch
from problems import INTERPOLATIONS, SCOPES, assert_near, composite, problem, problems_of
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from icsbound.norm import interpolation, ops, reference
from icsbound.norm.kernels import aten
from icsbound.norm.settings import Settings

# A deprecation inside torch, met on its own path for forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

EVERY_FORM = pytest.mark.parametrize("form", INTERPOLATIONS)
EVERY_SCOPE = pytest.mark.parametrize("scope", SCOPES)
BOTH_MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def by_ops(p, settings, training):
    y, _ = ops.unitize(p.x, p.weight, p.bias, p.alpha, None if training else p.stored, settings)
    assert y.grad_fn is not None
    return y.detach(), list(torch.autograd.grad(y, p.leaves, p.dy))


def by_aten(p, settings, training):
    """The backend that every device has, called by itself: on a CPU with native kernels nothing else reaches it."""
    x, weight, bias, alpha = (t.detach() for t in p.leaves)
    parameters = aten.Parameters(weight, bias, interpolation.clamped(alpha, settings.alpha_range))
    y, _, saved = aten.forward(x, parameters, None if training else p.stored, settings)
    return y, aten.backward(p.dy, x, parameters, saved, training, settings)


@pytest.mark.parametrize("implementation", [by_ops, by_aten])
@EVERY_FORM
@EVERY_SCOPE
@BOTH_MODES
def test_closed_form_equals_the_composite(implementation, form, scope, training):
    for p, s in problems_of(form, scope):
        y, grads = implementation(p, s, training)
        wanted, wanted_grads = composite(p, s, training)
        assert_near(y, wanted)
        for found, right in zip(grads, wanted_grads, strict=True):
            assert found.shape == right.shape
            assert_near(found, right)


@EVERY_SCOPE
def test_without_weight_and_bias(scope):
    p = problem((5, 3, 4, 6), affine=False)
    y, grads = by_ops(p, Settings(scope=scope), True)
    wanted, wanted_grads = composite(p, Settings(scope=scope), True)
    assert_near(y, wanted)
    assert len(grads) == 2
    for found, right in zip(grads, wanted_grads, strict=True):
        assert_near(found, right)


@pytest.mark.parametrize("implementation", [by_ops, by_aten])
@EVERY_FORM
@EVERY_SCOPE
@BOTH_MODES
def test_a_free_alpha_outside_of_its_usual_range(implementation, form, scope, training):
    # The harmonic form has its pole at α (1 - ν) = 1; no ν of this problem comes near one of the two beyond [0, 1].
    p = problem((5, 3, 4, 6))
    s = Settings(interpolation=form, scope=scope, alpha_range=None)
    with torch.no_grad():
        p.alpha.copy_(torch.tensor([-0.2, 0.4, 1.1]))
    y, grads = implementation(p, s, training)
    wanted, wanted_grads = composite(p, s, training)
    if scope != "batch":  # where ν is 1 and no α changes anything
        kept, _ = composite(p, s._replace(alpha_range=(0.0, 1.0)), training)
        assert (wanted - kept).abs().amax((0, 2, 3)).gt(1e-3).tolist() == [True, False, True]
    assert_near(y, wanted)
    for found, right in zip(grads, wanted_grads, strict=True):
        assert_near(found, right)


@EVERY_SCOPE
@pytest.mark.parametrize("variance", ["biased", "published"])
def test_batch_statistics(scope, variance):
    p = problem((4, 3, 5))
    s = Settings(scope=scope, variance=variance)
    _, statistics = ops.unitize(p.x, p.weight, p.bias, p.alpha, None, s)
    mean, var = reference.batch_statistics(p.x.detach(), s)
    assert_near(statistics.mean_C, mean, 1e-14)
    assert_near(statistics.var_C, var, 1e-14)
    assert not statistics.mean_C.requires_grad
    assert not statistics.var_C.requires_grad
    assert ops.unitize(p.x, p.weight, p.bias, p.alpha, p.stored, s)[1] is None


def call(p, settings, training):
    return lambda *leaves: ops.unitize(*leaves, None if training else p.stored, settings)[0]


@EVERY_FORM
@EVERY_SCOPE
@BOTH_MODES
@pytest.mark.parametrize("target", ["rms", "paper", 2.5])
def test_gradients_of_every_order(form, scope, training, target):
    # Three samples of two channels and three positions: the smallest in which no two axes have one size.
    # α free (its rule at the ends of a range is a projection, not a derivative, and has tests of its own).
    p = problem((3, 2, 3), edges=False)
    s = Settings(eps=1e-2, norm_eps=1e-2, interpolation=form, scope=scope, target=target, alpha_range=None)
    assert gradcheck(call(p, s, training), p.leaves)
    assert gradgradcheck(call(p, s, training), p.leaves, fast_mode=target != "rms")


@EVERY_SCOPE
@pytest.mark.parametrize(
    "changed",
    [
        {"shrink_only": True, "interpolation": "geometric"},
        {"activation": "relu"},
        {"target": "paper", "interpolation": "arithmetic"},
        {"target": 2.5},
        {"variance": "published", "activation": "relu", "shrink_only": True},
    ],
    ids=str,
)
def test_gradients_in_other_settings(changed, scope):
    training = "target" not in changed or scope == "sample"
    p = problem((3, 2, 3), seed=1, edges=False)
    s = Settings(eps=1e-2, norm_eps=1e-2, scope=scope, alpha_range=None, **changed)
    assert call(p, s._replace(activation=None), training)(*p.leaves).abs().min() > 1e-3  # away from the ReLU's kink
    assert gradcheck(call(p, s, training), p.leaves)
    assert gradgradcheck(call(p, s, training), p.leaves, fast_mode=True)


@EVERY_FORM
@EVERY_SCOPE
@BOTH_MODES
def test_forward_mode(form, scope, training):
    p = problem((3, 2, 4), edges=False)
    s = Settings(interpolation=form, scope=scope)
    tangents = [torch.randn_like(t) for t in p.leaves]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t.detach(), v) for t, v in zip(p.leaves, tangents, strict=True)]
        found = forward_ad.unpack_dual(call(p, s, training)(*duals)).tangent
    assert found is not None
    step = 1e-6
    ahead, behind = (
        call(p, s, training)(*(t.detach() + sign * step * v for t, v in zip(p.leaves, tangents, strict=True)))
        for sign in (1, -1)
    )
    assert_near(found, (ahead - behind) / (2 * step), 1e-7)


@BOTH_MODES
def test_forward_over_reverse_equals_double_backward(training):
    p = problem((3, 2, 4), edges=False)
    f = call(p, Settings(), training)
    vectors = tuple(torch.randn_like(t) for t in p.leaves)

    def loss(*leaves):
        return f(*leaves).pow(3).sum()

    plain = tuple(t.detach() for t in p.leaves)
    _, found = torch.func.jvp(lambda *t: torch.func.grad(loss, (0, 1, 2, 3))(*t), plain, vectors)
    _, wanted = torch.autograd.functional.hvp(loss, plain, vectors)
    for a, b in zip(found, wanted, strict=True):
        assert_near(a, b, 1e-9)


@EVERY_SCOPE
@BOTH_MODES
def test_torch_func_grad_equals_autograd(scope, training):
    p = problem((3, 2, 4))
    f = call(p, Settings(scope=scope), training)
    grads = torch.func.grad(lambda *t: (f(*t) * p.dy).sum(), (0, 1, 2, 3))(*(t.detach() for t in p.leaves))
    for found, wanted in zip(grads, torch.autograd.grad(f(*p.leaves), p.leaves, p.dy), strict=True):
        assert_near(found, wanted)


@EVERY_SCOPE
@BOTH_MODES
def test_vmap_over_batches_and_over_parameters(scope, training):
    p = problem((3, 2, 4))
    f = call(p, Settings(scope=scope), training)
    x = torch.randn(5, 3, 2, 4, dtype=torch.float64)
    alphas = torch.rand(5, 2, dtype=torch.float64)
    with torch.no_grad():
        together = torch.vmap(f, (0, None, None, 0))(x, p.weight, p.bias, alphas)
        for i in range(5):
            assert_near(together[i], f(x[i], p.weight, p.bias, alphas[i]), 1e-13)


def test_per_sample_gradients_of_an_evaluated_layer():
    p = problem((4, 2, 3), edges=False)  # inside its range, where the gradient of α is not projected
    f = call(p, Settings(), training=False)

    def loss(alpha, x):
        return f(x[None], p.weight.detach(), p.bias.detach(), alpha).square().sum()

    found = torch.vmap(torch.func.grad(loss), (None, 0))(p.alpha.detach(), p.x.detach())
    (total,) = torch.autograd.grad(f(*p.leaves).square().sum(), p.alpha)
    assert found.shape == (4, 2)
    assert_near(found.sum(0), total)


@EVERY_SCOPE
def test_zero_stride_and_permuted_gradients(scope):
    p = problem((5, 3, 4, 6))
    y, _ = ops.unitize(p.x, p.weight, p.bias, p.alpha, None, Settings(scope=scope))
    for dy in (
        torch.tensor(0.7, dtype=torch.float64).expand(5, 3, 4, 6),  # what y.sum() hands back
        p.dy[:, :, :1, :1].expand(5, 3, 4, 6),  # what a mean over positions hands back
        p.dy.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0),
    ):
        found = torch.autograd.grad(y, p.leaves, dy, retain_graph=True)
        wanted = torch.autograd.grad(y, p.leaves, dy.contiguous(), retain_graph=True)
        for a, b in zip(found, wanted, strict=True):
            assert_near(a, b, 1e-13)


@EVERY_SCOPE
@BOTH_MODES
def test_double_backward_through_a_graph_above_the_layer(scope, training):
    # x is not a leaf: the second derivative must stop at the layer's input and go on from there.
    p = problem((3, 2, 4), edges=False)
    s = Settings(scope=scope)
    grads = []
    for f in (
        call(p, s, training),
        lambda *t: reference.unitize(*t, None if training else p.stored, s),
    ):
        y = f(p.x.tanh(), p.weight, p.bias, p.alpha)
        first = torch.autograd.grad(y.square().sum(), p.leaves, create_graph=True)
        grads.append(torch.autograd.grad(sum(g.square().sum() for g in first), p.leaves))
    for found, wanted in zip(*grads, strict=True):
        assert_near(found, wanted, 1e-9)


@EVERY_FORM
def test_alpha_is_projected_inside_the_composite_as_in_the_closed_form(form):
    alpha = torch.tensor([-0.5, 0.0, 0.4, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    for sign in (1.0, -1.0):
        (g,) = torch.autograd.grad(interpolation.inside(alpha, (0.0, 1.0)), alpha, torch.full_like(alpha, sign))
        dropped = [True, True, False, False, False] if sign > 0 else [False, False, False, True, True]
        assert g.tolist() == [0.0 if d else sign for d in dropped]


@pytest.mark.parametrize("mode", ["real", "symbolic"])
@pytest.mark.parametrize("pre_dispatch", [True, False], ids=["before dispatch", "after"])
def test_a_tracer_sees_every_operation(mode, pre_dispatch):
    # Where it did not, the program that it writes would return what memory happened to hold.
    p = problem((3, 2, 4, 5))
    x, weight, bias, alpha = (t.detach() for t in p.leaves)

    def f(x):
        return ops.unitize(x, weight, bias, alpha, p.stored, Settings())[0]

    program = make_fx(f, tracing_mode=mode, pre_dispatch=pre_dispatch, _allow_non_fake_inputs=True)(x)
    other = torch.randn_like(x)
    assert_near(program(other), f(other))


def test_what_runs_through_aten_says_why_once(caplog):
    ops._say_why.cache_clear()
    x = torch.randn(3, 2).as_subclass(type("Wrapped", (torch.Tensor,), {}))
    with caplog.at_level("INFO", logger="icsbound"):
        for _ in range(2):
            ops.unitize(x, None, None, torch.rand(2), None, Settings())
    wanted = "the layer runs through ATen, slower than by its own kernels: x is a Wrapped, whose operations only"
    assert [record.message[: len(wanted)] for record in caplog.records] == [wanted]
