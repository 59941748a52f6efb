"""A small transformer learns to tell whether two halves of a sequence of tokens are equal: which of its parts move?

Layers are chosen by pattern; the inputs are tokens, handed over by name. The attention and the normalizations of
both blocks are followed from before training to its end.
"""

import pictures
import torch
from torch import Tensor, nn

from icsbound import ICSMonitor, records

TOKENS, LENGTH = 8, 6


class Equal(nn.Module):
    """Embedding, two encoder blocks, the mean over positions, two logits: (N, L) int64 -> (N, 2)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.place = nn.Parameter(torch.randn(LENGTH, width) / width**0.5)
        block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.embed(tokens) + self.place).mean(1))
        return logits


def sequences(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n sequences, and whether their second half repeats the first: so in half of them."""
    tokens = torch.randint(TOKENS, (n, LENGTH), generator=generator)
    equal = torch.rand(n, generator=generator) < 0.5
    tokens[equal, LENGTH // 2 :] = tokens[equal, : LENGTH // 2]
    return tokens, equal.long()


def main(steps: int = 60) -> list[records.DistanceRecord]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Equal()
    probe, _ = sequences(128, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    monitor = ICSMonitor(
        model, {"tokens": probe}, layers=["*.self_attn", "*.norm[12]"], every=20, views="pooled", against="first"
    )
    found = monitor.step(0)
    for step in range(1, steps + 1):
        tokens, equal = sequences(64, generator)
        loss = nn.functional.cross_entropy(model(tokens), equal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found += monitor.step(step)
    distances = [record for record in found if isinstance(record, records.DistanceRecord)]
    for record in distances:
        if record.step_b == steps:
            print(f"{record.layer:<26} moved by {record.scale_free:.3f} times its spread, EM {record.value:.4f}")
    pictures.over_steps(distances, "transformer")
    return distances


if __name__ == "__main__":
    main()
