import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import config, few_digits

from icsbound._check import InputError
from icsbound.report.results import reproduce, table
from icsbound.training import evaluate as ev
from icsbound.training import folders, loop, results
from icsbound.training.corruptions import corrupt
from icsbound.training.evaluate import Conditions, evaluate
from icsbound.training.score import score


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three finished runs: two of one arm and one of another."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        for arm, seed in (("bn", 0), ("bn", 1), ("unitized", 0)):
            loop.train(config(monitor=None, arm=arm, seed=seed), folder / f"{arm}-{seed}")
    return list(ev.finished_below(folder))


def test_finished_runs_are_found(runs: list[Path], tmp_path: Path) -> None:
    assert [run.name for run in runs] == ["bn-0", "bn-1", "unitized-0"]
    assert list(ev.finished_below(runs[0])) == [runs[0]]
    assert list(ev.finished_below(tmp_path)) == []


def test_clean_accuracy_is_that_of_the_run(runs: list[Path], tmp_path: Path) -> None:
    lines = evaluate(runs, tmp_path, Conditions())
    for run, line in zip(runs, lines, strict=True):
        done = loop.finished(run)
        assert done is not None
        assert line.accuracy == done.accuracy
        assert line.images == 40 == loop.evaluated(run)
    assert [(one.arm, one.seed, one.shift, one.severity) for one in lines] == [
        ("bn", 0, "none", 0), ("bn", 1, "none", 0), ("unitized", 0, "none", 0),
    ]  # fmt: skip


def test_lines_are_written_at_once_and_not_measured_twice(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def stop(event: Any) -> None:
        seen.append(event.run)
        if len(seen) == 3:
            raise KeyboardInterrupt

    conditions = Conditions(shifts=("none", "contrast"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(runs[:1], tmp_path, conditions, progress=stop)
    first = results.read(tmp_path / "results.jsonl")
    assert [(one.shift, one.severity) for one in first] == [("none", 0), ("contrast", 1), ("contrast", 2)]
    scored: list[int] = []
    whole = ev._score
    monkeypatch.setattr(ev, "_score", lambda *args: scored.append(len(args[1])) or whole(*args))
    lines = evaluate(runs[:1], tmp_path, conditions)
    assert scored == [40] * 3
    assert lines[:3] == first
    assert results.read(tmp_path / "results.jsonl") == lines
    assert len(lines) == 6
    # Where all is known nothing is read: a large data set need not be, to find that out.
    monkeypatch.setattr(ev, "load", lambda *args, **kwargs: pytest.fail("the run was loaded"))
    assert evaluate(runs[:1], tmp_path, conditions) == lines


@pytest.mark.parametrize(("room", "calls"), [(2**30, "cf"), (40 * 28 * 28, "cfff")])
def test_corruptions_are_made_once_for_all_runs_as_far_as_they_fit(
    room: int, calls: str, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, splits = ev.load(runs[0])
    monkeypatch.setattr(ev, "load_splits", lambda _: splits)  # in memory, and the same for every run
    conditions = Conditions(shifts=("contrast:3", "fog:3"))
    alone = [line for run in runs for line in evaluate([run], tmp_path / "alone", conditions)]
    made: list[str] = []
    monkeypatch.setattr(ev, "_KEPT", room)
    monkeypatch.setattr(ev, "corrupt", lambda *args: made.append(args[1][0]) or corrupt(*args))
    assert [line.accuracy for line in evaluate(runs, tmp_path / "together", conditions)] == [
        line.accuracy for line in alone
    ]
    assert "".join(made) == calls
    made.clear()
    evaluate(runs[:1], tmp_path / "one", conditions)
    assert made == ["c", "f"]


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_network_is_laid_out_as_it_was_trained(
    channels_last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(config(monitor=None, recipe={"epochs": 1}, channels_last=channels_last), tmp_path / "run")
    laid: list[bool] = []

    def watched(model: torch.nn.Module, *args: Any) -> float:
        wide = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        laid.append(all(p.is_contiguous(memory_format=torch.channels_last) for p in wide))
        return 0.5

    monkeypatch.setattr(ev, "_score", watched)
    evaluate([tmp_path / "run"], tmp_path, Conditions(mix=0.1))
    assert laid == [channels_last]


def test_pictures_are_decoded_once_for_all_corruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(256, (14, 16, 16, 3), dtype=torch.uint8)
    for k, picture in enumerate(pixels):
        folder = tmp_path / "pictures" / ("train" if k < 8 else "val") / str(k % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.numpy()).save(folder / f"{k}.png")
    reading = {"data": "folder", "data_dir": str(tmp_path / "pictures"), "image_size": 16, "in_memory": False}
    recipe = {"epochs": 1, "batch_size": 4}
    loop.train(config(monitor=None, workers=0, recipe=recipe, **reading), tmp_path / "run")
    made, model, splits = ev.load(tmp_path / "run")
    decoded: list[int] = []
    picture_of = folders.Files.picture

    def watched(files: folders.Files, index: int) -> Any:
        decoded.extend([index] if files.split.name == "val" else [])
        return picture_of(files, index)

    with monkeypatch.context() as patch:
        patch.setattr(folders.Files, "picture", watched)
        lines = evaluate([tmp_path / "run"], tmp_path / "table", Conditions(shifts=("contrast", "gaussian_noise:3")))
    assert sorted(decoded) == list(range(6))
    for line in lines:
        images = corrupt(splits.test.images[:], line.shift, line.severity)
        alone = dataclasses.replace(splits.test, images=images)
        assert line.accuracy == score(model, alone, ev.normalization(made, splits.train))[1]


@pytest.mark.parametrize(
    ("conditions", "field", "value"),
    [
        ({"perturb": "prune:0.9"}, "perturbation", "prune:0.9"),
        ({"perturb": "quantize:2"}, "perturbation", "quantize:2"),
        ({"recalibrate": 32}, "remedy", "recalibrate:32"),
        ({"recalibrate": 32, "augment": True}, "remedy", "recalibrate:32+augment"),
        ({"mix": 0.5}, "remedy", "mix:0.5"),
        ({"standardize": True}, "remedy", "standardize"),
        ({"eval_batch": 4}, "eval_batch", 4),
        ({"eval_batch": 8, "by_label": True}, "remedy", "by-label"),
    ],
)
def test_every_condition_reaches_the_network_and_the_table(
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    conditions: dict[str, Any],
    field: str,
    value: Any,
) -> None:
    logits: list[torch.Tensor] = []
    network = ev.network

    def watched(*args: Any) -> torch.nn.Module:
        model = network(*args)
        model.head.register_forward_hook(lambda _m, _i, y: logits.append(y.clone()))
        return model

    monkeypatch.setattr(ev, "network", watched)
    evaluate(runs[:1], tmp_path, Conditions())
    plain = torch.cat(logits)
    logits.clear()
    (line,) = evaluate(runs[:1], tmp_path, Conditions(**conditions))
    assert getattr(line, field) == value
    changed = torch.cat(logits)[-len(plain) :]
    assert changed.shape == plain.shape
    assert not torch.allclose(changed.sort(0).values, plain.sort(0).values)
    assert len({one.key for one in results.read(tmp_path / "results.jsonl")}) == 2


def test_other_draws_are_measured_anew(runs: list[Path], tmp_path: Path) -> None:
    for seed in (0, 1):
        (line,) = evaluate(runs[:1], tmp_path, Conditions(shifts=("gaussian_noise:5",), seed=seed))
        made, model, splits = ev.load(runs[0])
        noisy = dataclasses.replace(splits.test, images=corrupt(splits.test.images, "gaussian_noise", 5, seed))
        assert line.accuracy == score(model, noisy, ev.normalization(made, splits.train))[1]
    assert [line.remedy for line in results.read(tmp_path / "results.jsonl")] == ["none", "shift-seed:1"]
    last = reproduce.commands(table.load(tmp_path / "results.jsonl")).splitlines()[-1]
    assert "--shift gaussian_noise:5 --shift-seed 1 --out" in last


def test_two_runs_are_averaged_by_name(runs: list[Path], tmp_path: Path) -> None:
    (line,) = evaluate(runs[:1], tmp_path, Conditions(perturb=f"average:{runs[1]}"))
    assert line.perturbation == "average:bn-1"
    assert str(runs[1]) not in (tmp_path / "results.jsonl").read_text()
    with pytest.raises(InputError, match=r"^average must name a run of the same network and arm"):
        evaluate(runs[:1], tmp_path, Conditions(perturb=f"average:{runs[2]}"))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"shifts": ("rain",)}, "shift must be one of 'gaussian_noise', .*, got 'rain'"),
        ({"shifts": ("fog:7",)}, "severity must be 1, 2, 3, 4 or 5, got '7'"),
        ({"shifts": ("fog", "fog:3")}, "shifts must name at least one, each once"),
        ({"shifts": ()}, "shifts must name at least one, each once"),
        ({"mix": 0.1, "eval_batch": 4}, "mix must be 0 with an eval_batch"),
        (
            {"augment": True},
            "augment must come with recalibrate: images that are classified stay as they are, got True",
        ),
        ({"by_label": True}, "by_label must come with an eval_batch"),
        ({"eval_batch": -1}, "eval_batch must be an integer of at least 0, got -1"),
    ],
)
def test_names_what_is_wrong(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        Conditions(**conditions)


def test_all_shifts_are_twelve_at_five_severities() -> None:
    assert len(Conditions(shifts=("none", "all")).cases()) == 1 + 12 * 5


def test_a_run_is_evaluated_where_it_was_trained_or_where_one_says(runs: list[Path], tmp_path: Path) -> None:
    lacks = "mps" if not torch.backends.mps.is_available() else "cuda"
    moved = Path(shutil.copytree(runs[0], tmp_path / "moved"))
    made = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**made, "device": lacks}))
    with pytest.raises(
        InputError,
        match=rf"^device must be one that torch can use here, .*, got '{lacks}', where .*moved was trained; --device ",
    ):
        evaluate([moved], tmp_path / "table", Conditions())
    assert not (tmp_path / "table").exists()
    (line,) = evaluate([moved], tmp_path / "table", Conditions(), device="cpu")
    (there,) = evaluate(runs[:1], tmp_path / "there", Conditions())
    assert (line.device, line.config["device"], line.accuracy) == ("cpu", "cpu", there.accuracy)
    assert line.key == there.key
    for device, message in (("tpu", "device must be one of 'auto'"), (lacks, rf"device .* got '{lacks}'$")):
        with pytest.raises(InputError, match=message):
            evaluate(runs[:1], tmp_path / "table", Conditions(), device=device)


@pytest.mark.parametrize("recalibrated", [False, True])
def test_images_go_to_the_device_of_the_network(runs: list[Path], recalibrated: bool) -> None:
    made, model, splits = ev.load(runs[0])
    seen: list[str] = []

    def watched(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0].device.type)
        raise StopIteration

    model.to("meta").register_forward_pre_hook(watched)
    normalize = ev.normalization(made, splits.train)
    with pytest.raises(StopIteration):
        ev.recalibrate(model, splits.train, normalize, 16) if recalibrated else score(model, splits.test, normalize)
    assert seen == ["meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "conditions",
    [Conditions(mix=0.1), Conditions(recalibrate=32, augment=True), Conditions(eval_batch=8, by_label=True)],
)
def test_a_gpu_finds_what_the_cpu_finds(runs: list[Path], tmp_path: Path, conditions: Conditions) -> None:
    here, there = (evaluate(runs, tmp_path / d, conditions, device=d) for d in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        assert other.device == "cuda"
        assert abs(one.accuracy - other.accuracy) <= 2 / 40


def test_runs_that_cannot_be_loaded_are_named(runs: list[Path], tmp_path: Path) -> None:
    counted = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        loop.train(config(monitor=None), tmp_path / "half", stop=lambda: next(counted) == 3)
    with pytest.raises(
        InputError, match=r"half must be the folder of a finished run; icsbound train --resume .*half finishes it$"
    ):
        evaluate([runs[0], tmp_path / "half"], tmp_path / "table", Conditions())
    with pytest.raises(InputError, match=r"nowhere must be the folder of a run, and holds no config.json$"):
        evaluate([tmp_path / "nowhere"], tmp_path / "table", Conditions())
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "records.jsonl"):
        (broken / name).write_bytes((runs[0] / name).read_bytes())
    # a header that claims to be larger than the file, as a hostile one might
    (broken / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match=r"model.safetensors cannot be read: "):
        evaluate([broken], tmp_path / "table", Conditions())
    (broken / "model.safetensors").write_bytes((runs[2] / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"model.safetensors does not fit the network of config.json"):
        evaluate([broken], tmp_path / "table", Conditions())
    with pytest.raises(InputError, match=r"^bits must be at most 24, as many as a float32 has of its own, got 99$"):
        evaluate(runs[:1], tmp_path / "table", Conditions(perturb="quantize:99"))
    assert not (tmp_path / "table").exists()


def test_a_table_that_cannot_be_kept_is_named(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for below in ("", "/table"):
        with pytest.raises(
            InputError, match=rf"^out must be a folder that can be written, got '\S*file{below}': (File exists|Not a d)"
        ):
            evaluate(runs[:1], f"{tmp_path}/file{below}", Conditions())
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(InputError, match=r"results\.jsonl cannot be read: Is a directory$"):
        evaluate(runs[:1], tmp_path, Conditions())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "results.jsonl"]


def test_standardizing_undoes_light_and_contrast(tmp_path: Path) -> None:
    made = dataclasses.replace(config(monitor=None), standardize=True)
    loop.train(made, tmp_path / "run")
    _, model, splits = ev.load(tmp_path / "run")
    normalize = ev.normalization(made, splits.train)
    images = splits.test.images // 2
    with torch.no_grad():
        torch.testing.assert_close(model(normalize(images * 2)), model(normalize(images)), rtol=1e-4, atol=1e-4)
    assert normalize(images).mean((1, 2, 3)).abs().max() < 1e-5
    flat = torch.full((1, 1, 28, 28), 7, dtype=torch.uint8)
    assert torch.equal(normalize(flat), torch.zeros(1, 1, 28, 28))


@pytest.fixture
def published_images(tmp_path: Path) -> Path:
    """Two corruptions of the forty test images in the published layout: clean, and darker with each severity."""
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        test = ev.data.load("digits", 0).test
    folder = tmp_path / "DIGITS-C"
    folder.mkdir()
    images = test.images.permute(0, 2, 3, 1).numpy()
    # in an order of their own, which the labels follow
    order = np.random.default_rng(0).permutation(len(images))
    np.save(folder / "labels.npy", np.tile(test.labels.numpy()[order].astype(np.uint8), 5))
    np.save(folder / "nothing.npy", np.tile(images[order], (5, 1, 1, 1)))
    np.save(folder / "darkness.npy", np.concatenate([images[order] // (s + 1) for s in range(1, 6)]))
    return folder


def test_published_images_are_taken_as_they_are(runs: list[Path], tmp_path: Path, published_images: Path) -> None:
    conditions = Conditions(shifts=("none", "all"), shift_dir=str(published_images))
    assert conditions.cases() == [
        ("none", 0),
        *(("darkness", s) for s in range(1, 6)),
        *(("nothing", s) for s in range(1, 6)),
    ]
    lines = evaluate(runs[:1], tmp_path, conditions)
    assert [one.shift for one in lines] == ["none", *["DIGITS-C/darkness"] * 5, *["DIGITS-C/nothing"] * 5]
    assert [one.accuracy for one in lines[6:]] == [lines[0].accuracy] * 5
    # severity s is those rows of the file: the images divided by s + 1
    made, model, splits = ev.load(runs[0])
    for severity in range(1, 6):
        images = splits.test.images // (severity + 1)
        part = ev.published.part(published_images, "darkness", severity, splits.test)
        assert sorted(map(bytes, part.images.numpy())) == sorted(map(bytes, images.numpy()))
        dark = dataclasses.replace(splits.test, images=images)
        _, accuracy = score(model, dark, ev.normalization(made, splits.train))
        assert lines[severity].accuracy == accuracy
    # the page's command takes them again
    again = reproduce.commands(table.load(tmp_path / "results.jsonl")).splitlines()
    words = [line for line in again if "--shift-dir DIGITS-C" in line]
    assert len(words) == 1
    assert "--shift darkness nothing --shift-dir" in words[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "fog.npy",
            np.zeros((200, 28, 28), np.uint8),
            r"fog.npy must be uint8 of shape \(200, 28, 28, 1\), five times",
        ),
        ("fog.npy", np.zeros((160, 28, 28, 1), np.uint8), r"fog.npy must be .* got \(\(160, 28, 28, 1\), 'uint8'\)$"),
        ("fog.npy", np.zeros((200, 28, 28, 1)), r"fog.npy must be .* got \(\(200, 28, 28, 1\), 'float64'\)$"),
        ("labels.npy", np.zeros(200, np.uint8), r"labels.npy must have as many labels of each class as the test part"),
        (
            "labels.npy",
            np.full(200, 77, np.uint8),
            r"labels.npy must have as many labels of each class as the test part",
        ),
        (
            "labels.npy",
            np.zeros(40, np.uint8),
            r"labels.npy must be uint8 of shape \(200,\), five times the test part, got",
        ),
        ("fog.npy", None, r"fog.npy must be an array of numpy: "),
    ],
)
def test_published_images_that_do_not_fit_are_named(
    runs: list[Path], tmp_path: Path, published_images: Path, name: str, content: np.ndarray | None, message: str
) -> None:
    np.save(published_images / "fog.npy", np.zeros((200, 28, 28, 1), np.uint8))
    if content is None:
        (published_images / name).write_bytes(b"\x93NUMPY\x01\x00cut short")
    else:
        np.save(published_images / name, content)
    with pytest.raises(InputError, match=message):
        evaluate(runs[:1], tmp_path, Conditions(shifts=("fog:2",), shift_dir=str(published_images)))


def test_a_folder_without_published_images_is_named(tmp_path: Path, runs: list[Path], published_images: Path) -> None:
    with pytest.raises(
        InputError, match=r"^shift_dir must be a folder with NAME.npy and labels.npy, as CIFAR-10-C has"
    ):
        Conditions(shifts=("fog",), shift_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"^shift must be one of 'darkness', 'nothing', 'none', 'all', got 'fog'$"):
        Conditions(shifts=("fog",), shift_dir=str(published_images))
    held = dataclasses.replace(config(monitor=None), split="validation", hold_out=0.2)
    loop.train(held, tmp_path / "held")
    with pytest.raises(InputError, match=r"^shift_dir must go with runs whose split is 'test': .*, got 'validation'$"):
        evaluate([tmp_path / "held"], tmp_path, Conditions(shifts=("darkness",), shift_dir=str(published_images)))
