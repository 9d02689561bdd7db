"""Load image captioners and language models of Hugging Face transformers from this machine only.

No code that comes with a model is run, and words are chosen greedily.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vactk import torchvision_ops  # noqa: F401 before transformers, which imports torchvision
from vactk.errors import VactkError

PROMPT = """\
These captions were written for frames of one video, in order of time, each without a look at the others:

{captions}

Say in one or two plain sentences what the video shows: who or what is there, what they do and with what, and
where. Where captions disagree, go by what most of them say. Add nothing that they do not say. Answer with the
sentences alone."""
COMPLETION = "\n\nThe video shows"  # for models that continue a text instead of answering
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NothingSaidError(Exception):
    """Raised if a model's answer has no words, or if its context has no room for one."""


class Captioner:
    """An image captioner of transformers' image-text-to-text kind: BLIP, BLIP-2, GIT, ViT-GPT2 and the like."""

    def __init__(self, name: str, *, max_new_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        """Raises VactkError if `name` is not on this machine or not a captioner."""
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        self.pictures = load(AutoImageProcessor, name, "image processor")
        self.tokenizer = load(AutoTokenizer, name, "tokenizer")
        if self.tokenizer.chat_template:
            raise VactkError(
                f"--captioner '{name}' answers questions about pictures; take a model that captions them "
                "without being asked, such as BLIP or GIT"
            )
        self.model = load_model(AutoModelForImageTextToText, name, "image captioner").to(device, dtype)
        if max_new_tokens >= positions(self.model):
            raise VactkError(
                f"--max-new-tokens {max_new_tokens} is too much for '{name}': it writes up to "
                f"{positions(self.model) - 1} tokens"
            )
        self.max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def caption(self, frames: Tensor) -> list[str]:
        """Return one caption per frame. frames (N, 3, H, W) uint8"""
        from torchvision.transforms.functional import to_pil_image

        inputs = self.pictures(images=[to_pil_image(frame) for frame in frames], return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        tokens = generate(self.model, self.max_new_tokens, pixel_values=pixels)
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


class LanguageModel:
    """A causal language model that merges captions into one text."""

    def __init__(self, name: str, *, max_new_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        """Raises VactkError if `name` is not on this machine or not a language model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = load(AutoTokenizer, name, "tokenizer")
        self.model = load_model(AutoModelForCausalLM, name, "language model").to(device, dtype)
        self.max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def merge(self, captions: Sequence[str]) -> str:
        """Merge captions into one text. Raises NothingSaidError if they are too long."""
        inputs = self._tokens(PROMPT.format(captions="\n".join(f"- {caption}" for caption in captions)))
        length = inputs["input_ids"].shape[1]
        limit = positions(self.model)
        if length + self.max_new_tokens > limit:
            raise NothingSaidError(
                f"a prompt of {length} and an answer of {self.max_new_tokens} tokens are more than the {limit} "
                "of the language model: lower --frames or --max-new-tokens"
            )
        answer = generate(self.model, self.max_new_tokens, **inputs.to(self.model.device))[0, length:]
        text = self.tokenizer.decode(answer, skip_special_tokens=True).strip()
        if not self.tokenizer.chat_template:  # it goes on with other texts, on other lines
            text = text.partition("\n")[0]
        return whole_sentences(text) if len(answer) == self.max_new_tokens else text

    def _tokens(self, prompt: str) -> Any:
        if not self.tokenizer.chat_template:
            return self.tokenizer(prompt + COMPLETION, return_tensors="pt", return_token_type_ids=False)
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # a variable that templates without thoughts do not read
        )
        return self.tokenizer(
            chat, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False
        )


def load(kind: Any, name: str, what: str, **settings: Any) -> Any:
    """Return `kind.from_pretrained(name)` without network. Raises VactkError that says how to download it."""
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise VactkError(f"there is no folder '{name}', and a model's name has the form OWNER/NAME")
    try:
        return kind.from_pretrained(name, local_files_only=True, **settings)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        if not Path(name).is_dir() and isinstance(error, OSError):
            raise VactkError(
                f"the {what} of '{name}' is not on this machine: download it with 'hf download {name}', or give "
                "a folder"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VactkError(f"transformers finds no {what} in '{name}': {reason}") from error


def load_model(kind: Any, name: str, what: str) -> Any:
    """Load a model with all of its weights. Raises VactkError if some are missing."""
    model, info = load(kind, name, what, output_loading_info=True)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise VactkError(
            f"'{name}' has not all weights of its {what}: {len(missing)} are missing, such as '{missing[0]}'"
        )
    return model.eval()


def positions(model: Any) -> float:
    """Return the context length in tokens, as far as the configuration says."""
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return math.inf if limit is None else limit


def generate(model: Any, max_new_tokens: int, **inputs: Any) -> Tensor:
    """Decode greedily, whatever the model's generation settings. -> (B, L) int64"""
    return model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)


def whole_sentences(text: str) -> str:
    """Return a truncated text up to its last complete sentence; all of it if there is none."""
    end = max(text.rfind(mark) for mark in (". ", "! ", "? ", ".\n"))
    return text if text.endswith((".", "!", "?")) or end < 0 else text[: end + 1]


def silence_transformers() -> None:
    """Silence transformers' warnings about unused generation settings, and its progress bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
