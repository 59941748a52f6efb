import torch

from icsbound.training import seeds


def test_streams_are_fixed_by_seed_and_purpose() -> None:
    assert seeds.number(1, "order", 2) == seeds.number(1, "order", 2)
    numbers = {seeds.number(s, purpose, epoch) for s in (0, 1) for purpose in ("order", "augment") for epoch in (0, 1)}
    assert len(numbers) == 8
    assert all(0 <= n < 2**63 for n in numbers)
    assert torch.equal(
        torch.rand(3, generator=seeds.generator(5, "weights")), torch.rand(3, generator=seeds.generator(5, "weights"))
    )


def test_streams_are_the_same_on_every_machine() -> None:
    # Written down once: a change of this number changes every run ever made.
    assert seeds.number(0, "order", 0) == 3955691223199900983
