"""The public benchmarks: official files, splits and published counts.

A new benchmark is a reader under annotations/, a locator in find_annotations.py, and an entry of BENCHMARKS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vactk.data.annotations.classes import ClassIndex, known_classes
from vactk.data.annotations.entries import Annotations
from vactk.data.class_subsets import base_and_novel
from vactk.data.file_tree import FileTree
from vactk.data.find_annotations import (
    Locator,
    few_shot_list,
    locate_hmdb51,
    locate_kinetics,
    locate_msrvtt,
    locate_ssv2,
    locate_ucf101,
    with_few_shot_lists,
)
from vactk.data.locations import data_locations
from vactk.data.match_files import match_entries
from vactk.data.records import VideoSet
from vactk.errors import VactkError, pick
from vactk.files.paths import config_path
from vactk.progress import Progress


class DatasetNotFoundError(VactkError):
    """A benchmark is in none of the folders that were looked in."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A public dataset as distributed by its authors."""

    name: str
    title: str
    folders: tuple[str, ...]  # its usual folder names
    page: str  # address of its web page
    fetch: tuple[str, ...]  # files to download from there
    locate: Locator
    train_split: str
    eval_splits: tuple[str, ...]
    recipe: str
    num_classes: int
    counts: dict[str, int] = field(default_factory=dict)  # published number of videos per split
    labelled: bool = True  # False: captions, no classes
    finetune_recipe: str = "openvclip-k400"

    def load(self, split: str, *, root: Path | None = None, progress: Progress | None = None) -> VideoSet:
        """Load a split. Raises VactkError where the dataset or all of its videos are missing."""
        return self.read(self.open(root), split)

    def read(self, found: OpenedBenchmark, split: str, *, strict: bool = True) -> VideoSet:
        """Load a split of an opened benchmark; for `strict`, see `match_entries`. Raises VactkError."""
        listing = few_shot_list(split)
        if listing and split not in found.annotations.splits:
            raise VactkError(
                f"{self.name} lacks the split '{split}'; put ViFi-CLIP's {listing} under '{found.tree.root}'"
            )
        entries = pick(found.annotations.splits, split, f"split of {self.name}")
        words = known_classes(self.name) if self.labelled else None
        published = self.counts.get(split, len(entries))
        notes = list(found.annotations.problems)
        if published != len(entries):
            notes.append(f"{self.name} {split} lists {len(entries):,} videos; {published:,} are published")
        return match_entries(
            entries,
            ClassIndex(found.annotations.classes, found.tree.root, words),
            found.tree,
            name=self.name,
            split=split,
            notes=notes,
            strict=strict,
        )

    def halves(self, root: Path | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (base, novel) class numbers, by their frequency in the training split."""
        annotations = self.open(root).annotations
        entries = pick(annotations.splits, self.train_split, f"split of {self.name}")
        index = ClassIndex(annotations.classes, self.name)
        labels = [index.find(entry.label) for entry in entries if entry.label is not None]
        return base_and_novel((number for number in labels if number is not None), len(index.classes))

    def open(self, root: Path | None = None, *, use_index: bool = True) -> OpenedBenchmark:
        """Find and read the annotations. Raises VactkError, which says what to fetch, if there are none.

        With `use_index`, an index file of `vactk data prepare` replaces walking the tree.
        """
        looked = []
        for location in data_locations(self.name, self.folders, root):
            if not location.folder.is_dir():
                looked.append(f"'{location.folder}' ({location.set_by}): no such folder")
                continue
            tree = FileTree.scan(location.folder, use_index=use_index)
            annotations = self.locate(tree)
            if annotations is not None:
                return OpenedBenchmark(tree, with_few_shot_lists(annotations, self.train_split, tree))
            looked.append(f"'{location.folder}' ({location.set_by}): no annotation files of {self.name}")
        raise DatasetNotFoundError(self._absent(looked))

    def tree(self, root: Path | None = None) -> FileTree:
        """Return the first existing folder, whatever it holds. Raises VactkError if there is none."""
        looked = data_locations(self.name, self.folders, root)
        found = next((location.folder for location in looked if location.folder.is_dir()), None)
        if found is None:
            raise DatasetNotFoundError(
                self._absent(
                    [f"'{location.folder}' ({location.set_by}): no such folder" for location in looked]
                )
            )
        return FileTree.scan(found)

    def _absent(self, looked: list[str]) -> str:
        where = f"looked in {'; '.join(looked)}" if looked else "no data folder is set"
        return (
            f"{self.name} was not found: {where}. Fetch {'; '.join(self.fetch)} from {self.page}, then set their "
            f"folder with --data-root, VACTK_DATA_{self.name.upper()}, VACTK_DATA or {config_path()}; "
            f"`vactk data prepare {self.name}` unpacks and checks them"
        )


class OpenedBenchmark(NamedTuple):
    """The file tree and the annotations of a benchmark on disk."""

    tree: FileTree
    annotations: Annotations


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a name or alias. Raises VactkError with the nearest match."""
    return pick(BENCHMARKS, ALIASES.get(name.lower(), name), "benchmark")


def _numbered(counts: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Turn {"train": (1, 2)} into {"train1": 1, "train2": 2}."""
    return {f"{kind}{n}": count for kind, numbers in counts.items() for n, count in enumerate(numbers, 1)}


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="hmdb51",
            title="HMDB51",
            folders=("hmdb51", "HMDB51", "hmdb"),
            page="https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
            fetch=("hmdb51_org.rar", "test_train_splits.rar"),
            locate=locate_hmdb51,
            train_split="train1",
            eval_splits=("test1",),
            recipe="m2clip-hmdb51",
            num_classes=51,
            counts={
                "all": 6766,
                **_numbered({"train": (3570,) * 3, "test": (1530,) * 3, "unused": (1666,) * 3}),
            },
        ),
        Benchmark(
            name="ucf101",
            title="UCF101",
            folders=("ucf101", "UCF101", "UCF-101", "ucf-101"),
            page="https://www.crcv.ucf.edu/data/UCF101.php",
            fetch=("UCF101.rar", "UCF101TrainTestSplits-RecognitionTask.zip"),
            locate=locate_ucf101,
            train_split="train1",
            eval_splits=("test1",),
            recipe="m2clip-ucf101",
            num_classes=101,
            counts={
                "all": 13320,
                **_numbered({"train": (9537, 9586, 9624), "test": (3783, 3734, 3696)}),
            },
        ),
        Benchmark(
            name="k400",
            title="Kinetics-400",
            folders=("k400", "kinetics400", "kinetics-400", "Kinetics400", "K400"),
            page="https://github.com/cvdfoundation/kinetics-dataset",
            fetch=("the archives k400/train, k400/val and k400/test", "k400/annotations/*.csv"),
            locate=locate_kinetics("k400"),
            train_split="train",
            eval_splits=("val",),
            recipe="m2clip-k400",
            num_classes=400,
        ),
        Benchmark(
            name="k600",
            title="Kinetics-600",
            folders=("k600", "kinetics600", "kinetics-600", "Kinetics600", "K600"),
            page="https://github.com/cvdfoundation/kinetics-dataset",
            fetch=("the archives k600/train, k600/val and k600/test", "k600/annotations/*.txt or *.csv"),
            locate=locate_kinetics("k600"),
            train_split="train",
            eval_splits=("val",),
            recipe="m2clip-k400",
            num_classes=600,
        ),
        Benchmark(
            name="ssv2",
            title="Something-Something v2",
            folders=("ssv2", "SSv2", "something-something-v2", "sthv2", "20bn-something-something-v2"),
            page="https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
            fetch=("the files 20bn-something-something-v2-00 and on", "the labels archive"),
            locate=locate_ssv2,
            train_split="train",
            eval_splits=("val",),
            recipe="m2clip-ssv2",
            finetune_recipe="openvclip-ssv2",
            num_classes=174,
            counts={"train": 168913, "val": 24777, "test": 27157},
        ),
        Benchmark(
            name="msrvtt",
            title="MSR-VTT",
            folders=("msrvtt", "MSRVTT", "msr-vtt", "MSR-VTT"),
            page="https://www.microsoft.com/en-us/research/publication/"
            "msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/",
            fetch=(
                "MSRVTT.zip, or train_val_videos.zip, test_videos.zip and the two videodatainfo.json",
                "MSRVTT_JSFUSION_test.csv and MSRVTT_train.9k.csv for the 1k-A split",
            ),
            locate=locate_msrvtt,
            train_split="train9k",
            eval_splits=("test1k",),
            recipe="adapters-msrvtt",
            finetune_recipe="clip4clip-msrvtt",
            num_classes=0,
            counts={"train": 6513, "val": 497, "test": 2990, "test1k": 1000, "train9k": 9000, "full": 10000},
            labelled=False,
        ),
    )
}
ALIASES = {
    **dict.fromkeys(("kinetics-400", "kinetics400", "kinetics_400"), "k400"),
    **dict.fromkeys(("kinetics-600", "kinetics600", "kinetics_600"), "k600"),
    **dict.fromkeys(("hmdb", "hmdb-51"), "hmdb51"),
    **dict.fromkeys(("ucf", "ucf-101"), "ucf101"),
    **dict.fromkeys(("sthv2", "something-something-v2", "something-something"), "ssv2"),
    "msr-vtt": "msrvtt",
}
