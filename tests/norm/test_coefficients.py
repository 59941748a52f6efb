"""The N×C mathematics on its own: a batch cut in parts gives, part by part, what the whole gives."""

import pytest
import torch
from problems import INTERPOLATIONS, assert_near, composite, problem, settings_of

from icsbound.norm import coefficients
from icsbound.norm.coefficients import Moments, Sums
from icsbound.norm.kernels import aten


class Parts(coefficients.Whole):
    """Stands for the other processes: the moments and sums of the whole batch are known beforehand."""

    def __init__(self, moments: Moments, sums: Sums | None = None) -> None:
        self.moments, self.sums = moments, sums

    def reduce(self, part: Sums) -> Sums:
        assert self.sums is not None
        return self.sums

    def size(self, samples: int, positions: int) -> tuple[float, float]:
        return self.moments.values, self.moments.samples


class Recorder(coefficients.Whole):
    def reduce(self, part: Sums) -> Sums:
        self.seen = part
        return part


@pytest.mark.parametrize("scope", ["sample", "batch"])
@pytest.mark.parametrize("form", INTERPOLATIONS)
def test_parts_of_a_batch(form, scope):
    # Seven samples cut 2 + 5: unequal parts, so that a mean of means would be wrong; three channels, six positions.
    p = problem((7, 3, 2, 3), edges=False)
    x, dy = p.x.detach(), p.dy
    weight, bias, alpha = (t.detach() for t in (p.weight, p.bias, p.alpha))
    pivot = torch.zeros(3, dtype=torch.float64)
    for s in settings_of(form, scope):
        if s.activation is not None:
            continue  # the activation lies outside the coefficients
        _, (dx, *_) = composite(p, s, training=True)
        m, v = aten.row_moments(x, pivot)
        whole = coefficients.moments(m, v, 6)
        forward = coefficients.forward(m, v, 6, weight, bias, alpha, None, s)
        recorder = Recorder()
        s0, s1 = aten.row_dots(dy, x, pivot)
        backward = coefficients.backward(s0, s1, 6, weight, alpha, forward, True, s, recorder)
        found = aten.row_affine2(dy, x, pivot, *backward[:3])
        assert_near(found, dx)
        parts = []
        for rows in (slice(0, 2), slice(2, 7)):
            part = coefficients.forward(m[rows], v[rows], 6, weight, bias, alpha, None, s, whole)
            assert_near(part.a_NC, forward.a_NC[rows], 1e-14)
            assert_near(part.b_NC, forward.b_NC[rows], 1e-14)
            parts.append(
                coefficients.backward(s0[rows], s1[rows], 6, weight, alpha, part, True, s, Parts(whole, recorder.seen))
            )
            for axis in range(3):
                assert_near(parts[-1][axis], backward[axis][rows], 1e-13)
        for gradient in range(3, 6):  # the parts' parameter gradients add up
            assert_near(parts[0][gradient] + parts[1][gradient], backward[gradient], 1e-12)


def test_moments_equal_torch():
    x = problem((4, 3, 5)).x.detach()
    pivot = x[0, :, 0]
    found = coefficients.moments(*aten.row_moments(x, pivot), 5)
    var, mean = torch.var_mean(x, (0, 2), correction=0)
    assert_near(found.mean_C + pivot, mean, 1e-14)
    assert_near(found.var_C, var, 1e-14)
    assert (found.values, found.samples) == (20, 4)
