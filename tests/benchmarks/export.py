"""Every temporal module in every format: largest difference to the model, size, and time against eager torch.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.export
    OMP_NUM_THREADS=2 python -m tests.benchmarks.export --backbone ViT-B-16 --pretrained none --repeats 5

Weights that were added are random, so that no module is without effect. Times are the least of interleaved runs
of one video of eight frames: what else the machine does only adds to them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vactk.data.config import DataConfig, ImageSpec
from vactk.data.datasets import find_dataset
from vactk.data.video_dataset import VideoDataset
from vactk.errors import VactkError
from vactk.export.formats import GRAPHS, ExportConfig, export_model
from vactk.export.graph_specs import Samples
from vactk.export.metadata import InferenceSpec
from vactk.export.quantization_loss import some_videos
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.adapters import FrameAdapterConfig, NoTemporal, STAdapterConfig, TEDAdapterConfig
from vactk.models.temporal.frame_attention import CrossFrameAttentionConfig, NeighbourAttentionConfig
from vactk.models.text_tower import TextAdapterConfig
from vactk.models.video_model import ModelConfig, VideoModel, new_model

NUM_FRAMES = 8
MODELS = {
    "none": {"temporal": NoTemporal()},
    "neighbour_attention": {"temporal": NeighbourAttentionConfig()},
    "neighbour_attention, masked": {"temporal": NeighbourAttentionConfig(window=2, ends="masked")},
    "cross_frame_attention": {"temporal": CrossFrameAttentionConfig()},
    "st_adapter": {"temporal": STAdapterConfig()},
    "ted_adapter": {"temporal": TEDAdapterConfig()},
    "ted_adapter, both, frame and text adapters": {
        "temporal": TEDAdapterConfig(placement="both"),
        "frame_adapter": FrameAdapterConfig(enabled=True),
        "text_adapter": TextAdapterConfig(layers=-1),
    },
}
FORMATS = {
    "onnx": ExportConfig(),
    "onnx float16": ExportConfig(precision="float16"),
    "onnx int8": ExportConfig(precision="int8"),
    "pt2": ExportConfig(format="pt2"),
    "torchscript": ExportConfig(format="torchscript"),
    "open_clip": ExportConfig(format="open_clip"),
    "huggingface": ExportConfig(format="huggingface"),
}


def build(added: dict[str, object], backbone: BackboneConfig) -> VideoModel:
    torch.manual_seed(0)
    model = new_model(ModelConfig(backbone=backbone, **added))
    with torch.no_grad():
        for name, parameter in model.module_dict().named_parameters():
            if not name.startswith("clip."):
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def samples_for(model: VideoModel, data: DataConfig) -> Samples:
    videos = some_videos(find_dataset("shapes").load("unseen"), 2)
    picture = ImageSpec(model.backbone.image_size, model.backbone.mean, model.backbone.std)
    dataset = VideoDataset(videos.records, data, picture, train=False)
    return Samples(
        videos=[dataset[0, place].views for place in range(2)], texts=("a dog", "a red star moving left")
    )


def least(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Milliseconds of each function, by turns."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(repeats):
        for function, found in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            found.append(1000 * (time.perf_counter() - start))
    return [min(found) for found in times]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="toy")
    parser.add_argument("--pretrained", default="")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--modules", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    options = parser.parse_args()
    data = DataConfig(num_frames=NUM_FRAMES)
    print(f"{options.backbone}, {torch.get_num_threads()} threads, one video of {NUM_FRAMES} frames")
    print(
        f"{'module':44}{'format':14}{'random':>9}{'real':>9}{'MB':>8}{'frames':>8}{'eager':>9}{'file':>9}{'ratio':>7}"
    )
    for name in options.modules:
        model = build(MODELS[name], BackboneConfig(name=options.backbone, pretrained=options.pretrained))
        samples = samples_for(model, data)
        inference = InferenceSpec(data=data, templates=("a video of {}",), source={"name": name})
        for kind in options.formats:
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder, "out")
                try:
                    exported = export_model(model, output, FORMATS[kind], inference, samples)
                except VactkError as error:
                    print(f"{name:44}{kind:14} refused: {str(error).partition(':')[0]}")
                    continue
                file = exported.files[0]
                speed = ""
                if FORMATS[kind].format in GRAPHS:
                    run = GRAPHS[FORMATS[kind].format].run(output / file.path)
                    video = samples.videos[0]
                    eager, found = least(
                        [lambda: model.video_clip.encode_video(video), lambda: run(video)],  # noqa: B023 - used at once
                        options.repeats,
                    )
                    speed = f"{eager:>9.1f}{found:>9.1f}{found / eager:>7.2f}"
                random, real = (f"{file.differences[what]:.1e}" for what in ("random", "real"))
                frames = str(file.frames or "-")
                print(f"{name:44}{kind:14}{random:>9}{real:>9}{file.bytes / 1e6:>8.1f}{frames:>8}{speed}")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
