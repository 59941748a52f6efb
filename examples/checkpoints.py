"""Two checkpoint files of one training: which layers moved between them, and how far?

A plain loop saves its weights twice. The command reads such files as tensors and never as code, so all it has to be
told is the network, by its name or as `my_package.nets:make`, and the data whose held-out part becomes the probe; files
of `torch.save` do as well. What it prints also stands in a file of records, from which the picture is drawn.
"""

import tempfile

import common
import pictures
from safetensors.torch import save_file

from icsbound import cli, records


def main() -> dict[str, str]:
    model = common.network()
    with tempfile.TemporaryDirectory() as folder:
        for name, steps in (("early", 20), ("late", 40)):
            common.train(model, steps)
            save_file(model.state_dict(), f"{folder}/{name}.safetensors")
        words = f"measure {folder}/early.safetensors {folder}/late.safetensors --model resnet8:width=4 --data digits"
        words += f" --view pooled --probe 250 --jobs 1 --quiet --out {folder}/measured"
        assert cli.main(words.split()) == 0
        found = records.read(f"{folder}/measured/records.jsonl")
    spreads = {r.layer: r.spread for r in found if isinstance(r, records.ShiftRecord)}
    moved_by = {r.layer: r.value / spreads[r.layer] for r in found if isinstance(r, records.DistanceRecord)}
    floors = {r.layer: r.floor / r.spread for r in found if isinstance(r, records.ShiftRecord)}
    verdicts = {r.layer: r.verdict for r in found if isinstance(r, records.VerdictRecord)}
    drawn = {
        text: {layer: moved_by[layer] for layer in verdicts if verdicts[layer] == text}
        for text in dict.fromkeys(verdicts.values())
    }
    title = "the late file, against the early one"
    pictures.by_layer({**drawn, "floor": floors}, "checkpoints", "distance in spreads", title=title)
    return verdicts


if __name__ == "__main__":
    main()
