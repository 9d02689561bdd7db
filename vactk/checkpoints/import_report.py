"""Fill a model from another project's tensors, and report what fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

from torch import Tensor

from vactk.errors import VactkError
from vactk.models.video_model import VideoModel
from vactk.weights.safetensors_file import load_exactly

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
SHOWN = 4  # names of an import's report


def fill(
    model: VideoModel,
    path: Path,
    title: str,
    tensors: Mapping[str, Tensor],
    rename: Rename,
    *,
    may_lack: Set[str] = frozenset(),
    known: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Load a file's tensors, by our names, into `model`; returns `{"import": ...}`, what was found, for its info.

    `may_lack` are our names that may keep their values; `known` says whether a tensor that `rename` leaves out
    may be left out. Raises VactkError for one that is not, for what does not fit the model, and for
    values that are not finite.
    """
    renamed = rename(tensors)
    left_over = [name for name in tensors if not rename({name: tensors[name]})]
    strangers = [name for name in left_over if not known(name)]
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise VactkError(f"'{path}' ({title}) holds tensors unknown to vactk: {strangers[0]}{more}")
    load_exactly(model.module_dict(), renamed, may_lack=may_lack, source=f"'{path}'")
    missing = sorted(may_lack - renamed.keys())
    return {
        "import": {
            "format": title,
            "mapped": len(tensors) - len(left_over),
            "missing": missing,
            "left_over": left_over,
        }
    }


def describe_import(report: Mapping[str, Any]) -> str:
    """A line on what an import found, for the user."""
    parts = [f"{report['format']}: {report['mapped']} tensors taken over"]
    if report["missing"]:
        parts.append(
            f"{len(report['missing'])} missing, as the backbone has them ({_some(report['missing'])})"
        )
    if report["left_over"]:
        parts.append(f"{len(report['left_over'])} left over ({_some(report['left_over'])})")
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    """List a few names, or the first components of many."""
    shown = names if len(names) <= SHOWN else sorted({f"{name.split('.')[0]}.*" for name in names})
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
