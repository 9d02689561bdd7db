"""Train the toy CLIP that comes with vactk, contrastively on still images of the objects in `shapes`.

python examples/make_toy_clip.py --output vactk/models/toy.safetensors
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.progress import track
from torch import Tensor, nn

import vactk.torchvision_ops  # noqa: F401 - open_clip imports torchvision
from vactk.data.shapes.stills import Stills, color_names, load_stills, shape_names
from vactk.models.text_tower import TextTower
from vactk.models.toy import initial_embedding, save_toy, toy_config
from vactk.train.optim import schedule

# isort: split
import open_clip

MAX_SCALE = 100.0  # CLIP's limit on the factor of similarities


def main(
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    num_stills: Annotated[int, typer.Option(help="Still images to train on.")] = 24000,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 13,
    batch_size: int = 128,
    lr: float = 2.5e-3,
    seed: int = 0,
) -> None:
    """Train the toy CLIP, print how well it knows shapes and colours, and save it."""
    torch.manual_seed(seed)
    started = time.monotonic()
    model = new_toy()
    tokenize = open_clip.SimpleTokenizer(context_length=model.context_length)
    train(model, tokenize, load_stills("train", num_stills, seed), epochs, batch_size, lr)
    save_toy(output, model.state_dict())
    seconds = time.monotonic() - started
    accuracy = appearance_accuracy(model.eval(), tokenize, load_stills("test", 1000, seed))
    shown = ", ".join(f"{name} {value:.1f}%" for name, value in accuracy.items())
    typer.echo(f"{shown} on 1000 new pictures; {seconds:.0f} s, {output.stat().st_size / 1e6:.2f} MB")


def new_toy() -> Any:
    """Build the architecture with random weights."""
    model = open_clip.CLIP(**toy_config()["model_cfg"])
    with torch.no_grad():
        model.token_embedding.weight.copy_(initial_embedding())
    return model


def train(model: Any, tokenize: Any, stills: Stills, epochs: int, batch_size: int, lr: float) -> None:
    """Train as CLIP does, except that images with the same caption are not each other's negatives.

    The steps take turns with captions that name the object alone, with its colour, with a detail such as its
    place, and in full: with all of it in every caption, what is hardest to see would be learnt last.
    """
    names = [f"a {shape_names()[shape]}" for shape in stills.shapes]
    colored = [
        f"a {color_names()[color]} {shape_names()[shape]}"
        for shape, color in zip(stills.shapes, stills.colors, strict=True)
    ]
    wordings = (names, stills.details, colored, stills.details, names, stills.captions)
    cycle = [number_captions(captions, tokenize) for captions in wordings]
    images = normalise(stills.images)
    text = TextTower(model)
    matrices = [p for p in model.parameters() if p.ndim > 1 and p is not model.token_embedding.weight]
    # without weight decay a token that never occurs keeps its initial embedding
    others = [p for p in model.parameters() if p.ndim <= 1 or p is model.token_embedding.weight]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    steps_per_epoch = len(images) // batch_size
    steps = epochs * steps_per_epoch
    for step in track(range(steps), description="training"):
        if step % steps_per_epoch == 0:
            order = torch.randperm(len(images))
        chosen = order[step % steps_per_epoch * batch_size :][:batch_size]
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step, steps, steps // 20)
        pictures = F.normalize(model.encode_image(images[chosen]), dim=-1)
        tokens, numbers = cycle[step % len(cycle)]
        texts = F.normalize(text.encode(tokens[chosen]), dim=-1)
        loss = clip_loss(model.logit_scale.exp() * pictures @ texts.T, numbers[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_SCALE))


def number_captions(captions: list[str], tokenize: Any) -> tuple[Tensor, Tensor]:
    """Return tokens (N, L), cut at the longest caption, and the number (N,) of each distinct caption."""
    tokens = tokenize(captions)
    different = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    numbers = torch.tensor([different[caption] for caption in captions])
    return tokens[:, : int(tokens.argmax(dim=1).max()) + 1], numbers


def clip_loss(logits: Tensor, numbers: Tensor) -> Tensor:
    """Return the cross entropy in both directions. logits (B, B), numbers (B,) of the captions."""
    same = (numbers[:, None] == numbers[None, :]) & ~torch.eye(len(numbers), dtype=torch.bool)
    logits = logits.masked_fill(same, -math.inf)
    targets = torch.arange(len(numbers))
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def normalise(images: Tensor) -> Tensor:
    """Normalise images for the toy CLIP. uint8 (N, 3, H, W) -> float32"""
    preprocess = toy_config()["preprocess_cfg"]
    mean, std = (torch.tensor(preprocess[key])[:, None, None] for key in ("mean", "std"))
    return (images / 255 - mean) / std


@torch.no_grad()
def appearance_accuracy(model: Any, tokenize: Any, stills: Stills) -> dict[str, float]:
    """Return zero-shot accuracies on still images, in per cent: of shape, and of colour."""
    pictures = torch.cat([model.encode_image(part) for part in normalise(stills.images).split(256)])
    found = {}
    for name, words, labels in (
        ("shape", [f"a {shape}" for shape in shape_names()], stills.shapes),
        ("color", [f"a {color} object" for color in color_names()], stills.colors),
    ):
        texts = F.normalize(model.encode_text(tokenize(words)), dim=-1)
        found[name] = 100.0 * float(((pictures @ texts.T).argmax(dim=1) == labels).float().mean())
    return found


if __name__ == "__main__":
    typer.run(main)
