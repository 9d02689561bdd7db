"""Checks of what is embedded, and with which model."""

from __future__ import annotations

from vactk.errors import VactkError
from vactk.models.video_model import VideoModel
from vactk.weights.safetensors_file import fingerprint

LONGEST_QUERY = 10_000  # characters; a text tower reads about 300


def check_query(text: str) -> str:
    """The query without spaces around it. Raises VactkError where it is empty or enormous."""
    text = " ".join(text.split())
    if not text:
        raise VactkError('the query is empty: say what to look for, such as --query "juggling"')
    if len(text) > LONGEST_QUERY:
        raise VactkError(
            f"the query has {len(text):,} characters, at most {LONGEST_QUERY:,} are taken: a sentence is enough"
        )
    return text


def model_fingerprint(model: VideoModel) -> str:
    """Tells the models apart whose vectors cannot be compared: by what embeds, without heads."""
    names = ("clip", "temporal", "text_adapters", "frame_adapter")
    tensors = model.module_dict().state_dict()
    return fingerprint({name: value for name, value in tensors.items() if name.split(".")[0] in names})
