"""Training that starts from a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import Tensor

from vactk import config as settings
from vactk.errors import VactkError
from vactk.models.checkpoint import VideoModel, added_tensors, initial_values
from vactk.models.foreign import is_foreign, open_model


def start_from(
    path: Path, model: VideoModel, *, originals: bool = True
) -> tuple[VideoModel, dict[str, Tensor]]:
    """Put a checkpoint's weights into `model`, heads where they are for the same classes or words.

    Returns the model, and, where `originals` are asked for, the original values of what CLIP and added modules
    have: CLIP's own as `model` came, those of added modules as they were before the checkpoint was trained.
    Raises VactkError when the checkpoint has modules that `model` has not.
    """
    backbone = settings.to_dict(model.config.backbone)
    stated = backbone if is_foreign(path) else {"pretrained": backbone["pretrained"]}
    source = open_model(path, {"backbone": stated})
    own, theirs = model.modules().state_dict(), source.modules().state_dict()
    fits = {n: tensor for n, tensor in theirs.items() if n in own and own[n].shape == tensor.shape}
    left_out = sorted(theirs.keys() - fits.keys())
    lost = [name for name in left_out if not name.startswith(("class_head.", "word_head."))]
    if lost:
        raise VactkError(
            f"the model to train has no place for '{lost[0]}' of '{path}' ({len(lost)} such tensors)"
        )
    if source.heads.classes != model.heads.classes:
        fits = {name: tensor for name, tensor in fits.items() if not name.startswith("class_head.")}
    if source.heads.vocabulary != model.heads.vocabulary:
        fits = {name: tensor for name, tensor in fits.items() if not name.startswith("word_head.decoder.")}
    initial = source.info.get("initial")
    kept: dict[str, Tensor] = {}
    if originals:
        values, _ = initial_values(source.config, initial, added_tensors(theirs))
        kept = {name: tensor.clone() for name, tensor in {**own, **fits, **values}.items() if name in own}
        kept |= {name: tensor.clone() for name, tensor in own.items() if name.startswith("clip.")}
    model.modules().load_state_dict(fits, strict=False)
    return dataclasses.replace(model, info={"initial": initial}), kept
