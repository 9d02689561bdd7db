"""Tiny models of transformers, built here: the real classes with random weights and tokenizers of bytes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from tests.video.conftest import write_video
from vactk import torchvision_ops  # noqa: F401 before transformers, which imports torchvision

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))  # they import their neighbours

SPECIAL = ["<pad>", "<s>", "</s>"]
CHAT = (
    "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


def run(*args: object) -> Any:
    """The result of `python examples/describe_videos.py ARGS`."""
    import describe_videos

    app = typer.Typer()
    app.command()(describe_videos.main)
    return CliRunner().invoke(app, [str(arg) for arg in args])


def entries(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of descriptions."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def byte_tokenizer(words: tuple[str, ...] = ()) -> Any:
    """Any text as its bytes, but `words` whole."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([f" {word}" for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def spread(model: Any) -> Any:
    """Random weights large enough for answers that depend on what is asked."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.6)
    return model


@pytest.fixture(scope="session")
def captioner(tmp_path_factory) -> Path:
    """The folder of a tiny BLIP, which speaks in a few words of its own."""
    pytest.importorskip("transformers")
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    tokenizer = byte_tokenizer(
        ("a", "man", "dog", "ball", "runs", "throws", "red", "green", "field", "house")
    )
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    config = BlipConfig(
        text_config={
            **layers,
            "encoder_hidden_size": 16,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 96,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "sep_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = spread(BlipForConditionalGeneration(config))
    bias = model.text_decoder.cls.predictions.bias
    with torch.no_grad():
        bias[: len(tokenizer) - 10] = -50.0  # words, not bytes
    folder: Path = tmp_path_factory.mktemp("models") / "tiny-blip"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_language_model(folder: Path, *, chat: bool, positions: int = 2048) -> Path:
    """A tiny GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_tokenizer()
    if chat:
        tokenizer.chat_template = CHAT
    size = {"n_positions": positions, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    model = spread(GPT2LMHeadModel(GPT2Config(**size, bos_token_id=1, eos_token_id=2)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def language_model(tmp_path_factory) -> Path:
    """The folder of a tiny GPT-2 with a chat template."""
    pytest.importorskip("transformers")
    return save_language_model(tmp_path_factory.mktemp("models") / "tiny-gpt", chat=True)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def folder(tmp_path):
    """Three videos in folders that are named after what they show, and what is no video."""
    root = tmp_path / "clips"
    for number, name in enumerate(("juggling/zebra.mp4", "juggling/yak.mp4", "waving/zebra.mkv")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / name, num_frames=4 + 9 * number, size=(48, 64 + 16 * number))
    (root / "waving" / "notes.txt").write_text("not a video")
    (root / ".hidden.mp4").write_bytes(b"")
    return root
