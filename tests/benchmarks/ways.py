"""Files of the package that a reader enters on the ways through it: those whose functions a command runs.

python -m tests.benchmarks.ways --root . --root OTHER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.data import trees
from tests.video.conftest import write_video

TRACE = """
import json, sys
entered = set()
def see(frame, event, argument):
    name = frame.f_code.co_filename
    if event == "call" and "/vactk/" in name and frame.f_code.co_flags & 1:  # no bodies of classes
        entered.add(name.rpartition("/vactk/")[2])
sys.setprofile(see)
import threading
threading.setprofile(see)
sys.argv = ["vactk", *sys.argv[2:]]
code = 0
try:
    if sys.argv[1] == "open":
        try:
            from vactk.checkpoints.load import open_model
        except ImportError:  # before checkpoints had a package of their own
            from vactk.models.foreign import open_model
        from pathlib import Path
        open_model(Path(sys.argv[2]))
    else:
        from vactk.__main__ import main
        main()
except SystemExit as end:
    code = end.code
finally:
    sys.setprofile(None)
    print("ENTERED", json.dumps(sorted(entered)), file=sys.stderr)
sys.exit(code)
"""
QUIET = ("--workers", "0", "--device", "cpu", "--frames", "2", "--json")
FOREIGN = "containers/openvclip_swa.pth"


def entered(root: Path, *args: str) -> list[str]:
    """Files whose functions ran, but for data-loading processes, relative to the package."""
    done = subprocess.run(
        [sys.executable, "-c", TRACE, "-", *args],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root.resolve())},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"vactk {' '.join(args)}:\n{done.stderr[-2000:]}")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ENTERED ")]
    return json.loads(line.removeprefix("ENTERED "))


def main(
    root: Annotated[list[Path], typer.Option(help="Checkouts to compare.")],
    reference: Annotated[Path | None, typer.Option(help="Folder with a foreign checkpoint.")] = None,
    verbose: Annotated[bool, typer.Option(help="List the files.")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        video = str(write_video(folder / "clip.mp4"))
        data = str(trees.hmdb51(folder / "data" / "hmdb51", make=trees.tiny_video).parent)
        index = "INDEX"  # one for each checkout: formats differ
        for number, path in enumerate(root):
            own = f"{folder}/{number}"
            entered(path, "retrieve", "--index", own, "--add", video, "--backbone", "toy", *QUIET)
        ways = {
            "a video path to logits": ("zeroshot", video, "--labels", "a,b", "--backbone", "toy", *QUIET),
            "a protocol's name to a table": (
                "zeroshot", "--protocol", "hmdb51/ep3", "--data-root", data, "--backbone", "toy", *QUIET
            ),
            "a query to hits": ("retrieve", "--index", index, "--query", "a red star", "--json"),
        }  # fmt: skip
        if reference is not None:
            ways["a foreign checkpoint to a model"] = ("open", str(reference / FOREIGN))
        for name, args in ways.items():
            found = [
                entered(path, *(f"{folder}/{number}" if word == index else word for word in args))
                for number, path in enumerate(root)
            ]
            typer.echo(f"{name:36}" + "   ".join(f"{len(files):3}" for files in found))
            if verbose:
                for files in found:
                    typer.echo("    " + " ".join(files))


if __name__ == "__main__":
    typer.run(main)
