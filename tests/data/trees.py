"""Small datasets in the official layouts, with tiny videos or with empty files under videos' names."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.video.conftest import write_video
from vactk.data.annotations.entries import Annotations
from vactk.data.file_tree import INDEX_NAME, FileTree
from vactk.data.records import VideoSet

Maker = Callable[[Path], object]
HMDB_CLASSES = ("brush_hair", "kick", "kick_ball")
FLAGS = (1, 1, 2, 0)  # of a class's four videos in split 1; further splits are turned by one


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def tiny_video(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".avi": "mpeg4", ".webm": "libvpx-vp9"}.get(path.suffix, "libx264")
    return write_video(path, num_frames=6, codec=codec)


def half_video(path: Path) -> Path:
    """Of 60 frames, a part decodes before an error."""
    write_video(path, num_frames=60, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    return path


def class_folders(videos: VideoSet, root: Path) -> Path:
    """Move videos into a folder for each class."""
    for record in videos.records:
        folder = root / videos.classes[record.label]
        folder.mkdir(parents=True, exist_ok=True)
        record.video.rename(folder / record.video.name)
    return root


def hmdb51(root: Path, make: Maker = touch, suffix: str = ".avi") -> Path:
    """Three classes of four videos each, whose names hold what HMDB51's hold."""
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True, exist_ok=True)
    for label in HMDB_CLASSES:
        names = [f"(Film)_#{n}[x]&+;~@!_{label}_u_nm_np1_ba_goo_{n}" for n in range(4)]
        for name in names:
            make(root / "videos" / label / (name + suffix))
        for split in (1, 2, 3):
            lines = [f"{name}.avi {FLAGS[(n + split - 1) % 4]} " for n, name in enumerate(names)]
            (lists / f"{label}_test_split{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def ucf101(root: Path, make: Maker = touch) -> Path:
    """Three classes of two videos each; one class is spelt in two ways, as in the distribution."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    classes = {"HandstandPushups": "HandStandPushups", "TaiChi": "TaiChi", "YoYo": "YoYo"}
    (lists / "classInd.txt").write_bytes(b"".join(f"{n} {c}\r\n".encode() for n, c in enumerate(classes, 1)))
    train, test = [], []
    for number, (label, spelt) in enumerate(classes.items(), 1):
        for group, lines in ((1, test), (2, train)):
            video = f"{label}/v_{spelt}_g0{group}_c01.avi"
            make(root / "UCF-101" / video)
            lines.append(video if lines is test else f"{video} {number}")
    for split in (1, 2, 3):
        (lists / f"trainlist0{split}.txt").write_bytes("\r\n".join(train).encode())
        (lists / f"testlist0{split}.txt").write_bytes("\r\n".join(test).encode())
    return root


KINETICS_ROWS = [  # label, id, start, end; where the file lies
    ("abseiling", "-aNccq2jvUA", 55, 65, "val/abseiling/-aNccq2jvUA_000055_000065.mp4"),
    ("air drumming", "Ab2_3456789", 3, 13, "val/air_drumming/Ab2_3456789.mkv"),
    ("passing American football (in game)", "ab2_3456789", 0, 10, "val/ab2_3456789_000000_000010.webm"),
]


def kinetics(root: Path, make: Maker = touch) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = ["label,youtube_id,time_start,time_end,split,is_cc"]
    for label, video, start, end, path in KINETICS_ROWS:
        make(root / path)
        lines.append(f'"{label}",{video},{start},{end},validate,0')
    (root / "kinetics-400_val.csv").write_text("\n".join(lines))
    return root


def k400(root: Path, make: Maker = touch) -> Path:
    """Kinetics-400 with a training list of two classes, and a class of the other half in the validation list."""
    kinetics(root, make)
    rows = [f'"{label}",{label[:9]:_>9}{n},0,10' for label in ("abseiling", "air drumming") for n in range(4)]
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    (root / "kinetics-400_train.csv").write_text("\n".join([header, *(f"{row},train,0" for row in rows)]))
    with (root / "kinetics-400_val.csv").open("a") as file:
        file.write('\n"zumba",zumba_56789,0,10,validate,0')
    for row in rows:
        make(root / "train" / f"{row.split(',')[1]}_000000_000010.mp4")
    make(root / "val/zumba/zumba_56789_000000_000010.mp4")
    return root


def k600(root: Path, make: Maker = touch) -> Path:
    """Three record lists of Open-VCLIP's, and of ViFi-CLIP's, which count through class tables of their own."""
    tables = (["archery", "waving hand"], ["waving hand", "arguing"], ["arguing", "archery"])
    for split, classes in enumerate(tables, 1):
        folder = root / f"k600_split{split}"
        folder.mkdir(parents=True)
        (folder / "k600-openset-cls2index.json").write_text(json.dumps({c: n for n, c in enumerate(classes)}))
        names = [label.replace(" ", "") for label in classes]
        videos = [
            f"val/{label.replace(' ', '_')}/{name}_000001_000011.mp4"
            for label, name in zip(classes, names, strict=True)
        ]
        (folder / "test.csv").write_text("".join(f"{video},{n}\n" for n, video in enumerate(videos)))
        lines = (f"{Path(video).name} {n}\n" for n, video in enumerate(videos))
        (root / f"ZS_split{split}_K600_eval.txt").write_text("".join(lines))
        for video in videos:
            make(root / video)
    return root


def ssv2(root: Path, make: Maker = touch) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    labels = {"Holding something": "1", "Attaching something to something": "0", "Moving something up": "2"}
    (root / "something-something-v2-labels.json").write_text(json.dumps(labels))
    items = [
        {"id": "7", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]},
        {"id": "8", "label": "attaching a to b", "template": "Attaching [something] to [something]"},
        {"id": "6", "label": "moving a box up", "template": "Moving [something] up"},
    ]
    for name in ("train", "validation"):
        (root / f"something-something-v2-{name}.json").write_text(json.dumps(items))
    (root / "something-something-v2-test.json").write_text(json.dumps([{"id": "9"}]))
    make(root / "videos/6.mp4")
    make(root / "videos/7.webm")
    make(root / "videos/8.mp4")
    make(root / "videos/9.webm")
    return root


def msrvtt(root: Path, make: Maker = touch) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    splits = ("train", "train", "validate", "test")
    videos = [
        {"video_id": f"video{n}", "category": 1, "start time": 2.5, "end time": 12.5, "split": split, "id": n}
        for n, split in enumerate(splits)
    ]
    sentences = [
        {"sen_id": 3 * n + k, "video_id": f"video{n}", "caption": f"caption {k} of {n}"}
        for k in (2, 0, 1)
        for n in (3, 1, 0, 2)
    ]
    (root / "MSRVTT_data.json").write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    (root / "MSRVTT_JSFUSION_test.csv").write_text(
        'key,vid_key,video_id,sentence\nret0,msr3,video3,"a dog, running"\n'
    )
    (root / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo1\nvideo2\n")
    for n in range(4):
        make(root / f"videos/all/video{n}.mp4")
    return root


def msrvtt_archive(root: Path, make: Maker = touch) -> Path:
    """MSR-VTT as in the archive that most projects use: captions in COCO's form, lists of ids, a pickled table."""
    lists = root / "high-quality/structured-symlinks"
    captions = [
        {"image_id": f"video{n}", "id": n, "caption": f"caption {k} of {n}"}
        for k in (2, 0, 1)
        for n in range(4)
    ]
    (root / "annotation").mkdir(parents=True)
    (root / "annotation/MSR_VTT.json").write_text(json.dumps({"images": [], "annotations": captions}))
    lists.mkdir(parents=True)
    ids = {"train_list_full": (0, 1), "val_list_full": (2,), "test_list_full": (3,)}
    ids |= {"train_list_jsfusion": (0, 1, 2), "val_list_jsfusion": (3,)}
    for name, numbers in ids.items():
        (lists / f"{name}.txt").write_text("".join(f"video{n}\n" for n in numbers))
    (lists / "jsfusion_val_caption_idx.pkl").write_bytes(pickle.dumps({"video3": 1}))
    for n in range(4):
        make(root / f"videos/all/video{n}.mp4")
    return root


def listed_tree(root: Path, source: Path, annotations: Annotations, beside: Sequence[Path] = ()) -> Path:
    """A folder with real annotation files and, by its index file, every video that they list."""
    root.mkdir(parents=True)
    for path in (source, *beside):
        (root / path.name).symlink_to(path.absolute())
    videos = {entry.video for entry in annotations.entries}
    (root / INDEX_NAME).write_text(json.dumps({"files": [*FileTree.scan(root).others, *sorted(videos)]}))
    return root
