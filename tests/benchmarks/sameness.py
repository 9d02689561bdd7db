"""What must not change when code is moved: losses, exported outputs and index vectors, to the last digit.

python -m tests.benchmarks.sameness --output before.json      # on one checkout
python -m tests.benchmarks.sameness --against before.json     # on another; exit code 1 where something differs

Only commands are used, so that it runs on any checkout: `--root` puts another one's package first.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

STEPS, BATCH = 20, 8
TRAINING = [  # a packaged recipe's settings at the size of the embedded benchmark and its toy CLIP
    "--dataset", "shapes", "--backbone", "toy", "--seed", "0", "--device", "cpu", "--precision", "fp32",
    "--workers", "0", "--shots", "8", f"run.batch_size={BATCH}", "run.accumulate=1", "run.log_every=1",
    "data.num_frames=4", "data.views=1", "model.text_adapter.width=32",
]  # fmt: skip
TRAIN_CLASSES = 12


def run(root: Path, *args: str) -> str:
    """The standard output of a vactk command of the package below `root`."""
    environment = {**os.environ, "PYTHONPATH": str(root.resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vactk", *args],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"vactk {' '.join(args)}:\n{done.stderr[-2000:]}")
    return done.stdout


def losses(root: Path, recipe: str, folder: Path) -> list[str]:
    """The losses of a recipe's first steps, as the run wrote them."""
    command = "finetune" if recipe.startswith("openvclip") else "train"
    steps_per_epoch = TRAIN_CLASSES * 8 // BATCH
    run(
        root, command, "--recipe", recipe, *TRAINING, "--output", str(folder),
        "--epochs", str(STEPS / steps_per_epoch),
    )  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [repr(line["loss"]) for line in lines if "loss" in line][:STEPS]


def onnx_outputs(root: Path, checkpoint: Path, folder: Path) -> dict[str, str]:
    """SHA-256 of what every exported ONNX graph answers to a fixed input."""
    import numpy as np
    import onnxruntime

    run(root, "export", "--checkpoint", str(checkpoint), "--format", "onnx", "--output", str(folder))
    found = {}
    for file in sorted(folder.rglob("*.onnx")):
        session = onnxruntime.InferenceSession(str(file))
        rng = np.random.default_rng(0)
        feeds = {}
        for value in session.get_inputs():
            sizes = [size if isinstance(size, int) else 2 for size in value.shape]
            if "int" in value.type:
                feeds[value.name] = rng.integers(1, 400, sizes).astype(np.int64)
            else:
                feeds[value.name] = rng.standard_normal(sizes).astype(np.float32)
        outputs = b"".join(np.ascontiguousarray(value).tobytes() for value in session.run(None, feeds))
        found[file.name] = hashlib.sha256(outputs).hexdigest()
    return found


def index_vectors(root: Path, checkpoint: Path, folder: Path) -> list[str]:
    """SHA-256 of the vector files of an index of the embedded benchmark, and the hits of a query."""
    run(
        root, "retrieve", "--index", str(folder), "--add", "shapes", "--split", "unseen", "--checkpoint",
        str(checkpoint), "--workers", "0", "--device", "cpu", "--yes",
    )  # fmt: skip
    hits = json.loads(run(root, "retrieve", "--index", str(folder), "--query", "a red star", "--json"))
    scores = [(Path(hit["video"]).name, repr(hit["score"])) for hit in hits["hits"]]
    files = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.rglob("*.safetensors"))]
    return [*files, hashlib.sha256(json.dumps(scores).encode()).hexdigest()]


def measure(root: Path) -> dict[str, Any]:
    """Every figure of a checkout."""
    recipes = sorted(path.stem for path in (root / "vactk" / "recipes").glob("*.yaml"))
    recipes = [name for name in recipes if "msrvtt" not in name]  # those train on captions, not on classes
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        found: dict[str, Any] = {f"losses {name}": losses(root, name, folder / name) for name in recipes}
        found |= {
            f"onnx {name}": onnx_outputs(root, folder / name, folder / f"{name}-onnx")
            for name in ("m2clip-shapes", "openvclip-shapes")
        }
        found["index"] = index_vectors(root, folder / "m2clip-shapes", folder / "index")
    return found


def main(
    root: Annotated[Path, typer.Option(help="The checkout to measure.")] = Path(),
    output: Annotated[Path | None, typer.Option(help="Where to write what was found.")] = None,
    against: Annotated[Path | None, typer.Option(help="What was found before.")] = None,
) -> None:
    found = measure(root)
    if output is not None:
        output.write_text(json.dumps(found, indent=2))
    before = json.loads(against.read_text()) if against is not None else {}
    differing = [key for key in before if before[key] != found.get(key)]
    for key, value in found.items():
        state = "" if key not in before else "DIFFERS" if key in differing else "the same"
        size = (
            f"{len(value)} values, the last {value[-1]}"
            if isinstance(value, list)
            else f"{len(value)} graphs"
        )
        typer.echo(f"{key:32} {size:60.60} {state}")
    raise typer.Exit(1 if differing else 0)


if __name__ == "__main__":
    typer.run(main)
