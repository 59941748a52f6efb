"""Install what was built in environments of its own, and try it there: with a compiler, and without one.

python tools/try_wheel.py dist        # one wheel and one source distribution

Each environment takes torch and the other requirements from the one that this script runs in, but not the package. The
layer, forward and backward, the distance and `icsbound doctor` must run in all of them with the same results, and the
native library must be in use exactly where there was a compiler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

TRIAL = """
import json, torch
from icsbound import __file__ as where
from icsbound.measure.emd import emd
from icsbound.norm import UnitizedBatchNorm2d, ops
torch.manual_seed(0)
x = torch.randn(4, 3, 5, 5, requires_grad=True)
layer = UnitizedBatchNorm2d(3, activation="relu")
y = layer(x)
y.square().sum().backward()
a, b = torch.randn(2, 40, 3, dtype=torch.float64).unbind()
results = [float(y.sum()), float(x.grad.abs().sum()), float(layer.alpha.grad.abs().sum()), emd(a, b).value]
print(json.dumps({"where": where, "backend": ops.backend(x).name, "results": results}))
"""
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished process; raises where it failed."""
    done = subprocess.run(
        command,
        cwd=tempfile.gettempdir(),  # not here, where Python would find the sources
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done


def tried(archive: Path, folder: Path, native: bool) -> list[float]:
    """The results of the trial in a new environment in `folder`, into which `archive` is installed."""
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "requirements.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", archive, **({} if native else NO_COMPILER))
    done = run(python, "-c", TRIAL)
    found = json.loads(done.stdout)
    if not Path(found["where"]).is_relative_to(site):
        raise SystemExit(f"{archive.name}: tried {found['where']} instead of what was installed")
    if found["backend"] != ("native" if native else "aten"):
        raise SystemExit(f"{archive.name}: the layer ran on {found['backend']}\n{done.stderr}")
    if done.stderr.count("running on torch alone, slower") != (0 if native else 1):
        raise SystemExit(f"{archive.name}: must say once that it is slower, and only where it is:\n{done.stderr}")
    doctor = run(binaries / "icsbound", "doctor").stdout
    if ("none was built" in doctor) == native:
        raise SystemExit(f"{archive.name}: `icsbound doctor` is wrong about the native library:\n{doctor}")
    return list(found["results"])


def main() -> None:
    """Try the one wheel and the one source distribution in the folder that the command line names."""
    dist = Path(sys.argv[1]).resolve()
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    if "-abi3-" not in wheel.name:
        raise SystemExit(f"{wheel.name} is for one version of Python alone")
    cases = {"wheel": (wheel, True), "source": (source, True), "source, no compiler": (source, False)}
    results = {}
    for number, (name, (archive, native)) in enumerate(cases.items()):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = tried(archive, Path(folder) / str(number), native)
        print(f"{archive.name} ({name}): the layer, the distance and the doctor run", flush=True)
    for name, found in results.items():
        if any(abs(a - b) > 1e-5 * abs(b) for a, b in zip(found, results["wheel"], strict=True)):
            raise SystemExit(f"{name} gives {found}, the wheel {results['wheel']}")


if __name__ == "__main__":
    main()
