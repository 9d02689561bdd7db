"""Import this before torchvision: it lets PyPI's torchvision work beside a CPU-only torch.

PyPI's torchvision is compiled for CUDA. Beside a CPU build of torch its extension cannot be loaded, and
`import torchvision` then dies ("operator torchvision::nms does not exist") while it describes two operators
that the extension would have registered. vactk uses none of them: it declares their schemas, so that the
import goes through; calling them still fails. Where the extension loads, nothing is declared.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _extension_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    candidates = [Path(folder, "_C" + suffix) for folder in folders for suffix in suffixes]
    for library in filter(Path.is_file, candidates):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


def _declare_missing() -> torch.library.Library | None:
    if _extension_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    return library


_LIBRARY = _declare_missing()  # a Library undoes its definitions when it is collected: keep it
