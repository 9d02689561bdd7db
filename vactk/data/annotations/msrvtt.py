"""MSR-VTT's JSON of videos and captions, and its split lists of ids, or of ids and captions.

The archive that most projects use (MSRVTT.zip of Frozen in Time) differs from Microsoft's: MSR_VTT.json in COCO's
format, lists of bare ids, and a pickled table of the caption that 1k-A uses for each video.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from pickletools import genops
from typing import NoReturn

from vactk.data.annotations.entries import AnnotationEntry, Annotations, bare_name
from vactk.errors import VactkError
from vactk.files.text import DELIMITERS, read_json, read_lines, read_rows, wrong_line

SPLIT_NAMES = {"validate": "val", "validation": "val"}


def read_msrvtt_json(path: Path) -> Annotations:
    """Read the splits that the field `split` names. Captions are in the order of their numbers, and may repeat."""
    content = read_json(path)
    if isinstance(content, dict) and "annotations" in content:
        return _from_coco(path, content["annotations"])
    try:
        captions: dict[str, list[tuple[int, str]]] = {video["video_id"]: [] for video in content["videos"]}
        sentences = [each for each in content["sentences"] if _text(each["caption"]).strip()]
        for sentence in sentences:
            captions.setdefault(sentence["video_id"], []).append(
                (int(sentence["sen_id"]), _text(sentence["caption"]))
            )
        splits: dict[str, list[AnnotationEntry]] = {}
        for video in content["videos"]:
            name = str(video.get("split", "all"))
            entry = AnnotationEntry(
                video=_text(video["video_id"]),
                captions=tuple(caption for _, caption in sorted(captions.pop(video["video_id"], []))),
                length_s=_length_s(video.get("start time"), video.get("end time")),
            )
            splits.setdefault(SPLIT_NAMES.get(name, name), []).append(entry)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise VactkError(
            f"'{path}' must hold `videos` with video_id and `sentences` with video_id, sen_id and caption "
            f"({type(error).__name__}: {error})"
        ) from error
    problems = [f"captions for '{video}', which is not in the list of videos" for video in captions]
    if len(sentences) < len(content["sentences"]):
        problems.append(f"{len(content['sentences']) - len(sentences):,} empty captions are ignored")
    return Annotations(
        splits={name: tuple(entries) for name, entries in splits.items()}, problems=tuple(problems)
    )


def read_msrvtt_csv(path: Path) -> Annotations:
    """Read a list with a header that names `video_id`, perhaps `sentence`, or bare ids, one per line."""
    first = next(read_lines(path), None)
    if first is None:
        raise VactkError(f"'{path}' is empty")
    names = next((d for d in DELIMITERS if "video_id" in [cell.strip() for cell in first[1].split(d)]), None)
    if names is None:
        return Annotations(splits={path.stem: tuple(_ids(path))})
    rows = read_rows(path, names)
    header = next(rows)[1]
    entries = []
    for number, cells in rows:
        if len(cells) < len(header):
            raise wrong_line(path, number, f"has {len(cells)} cells, not {len(header)}")
        row = dict(zip(header, cells, strict=False))
        sentence = row.get("sentence")
        entries.append(AnnotationEntry(video=row["video_id"], captions=(sentence,) if sentence else ()))
    return Annotations(splits={path.stem: tuple(entries)})


def _ids(path: Path) -> list[AnnotationEntry]:
    entries = []
    for number, line in read_lines(path):
        name = line.strip('"')
        if any(delimiter in name for delimiter in DELIMITERS) or " " in name:
            raise wrong_line(
                path, number, f"must be a video id, unless the first line names video_id: '{line}'"
            )
        entries.append(AnnotationEntry(video=bare_name(name)))
    return entries


def _from_coco(path: Path, annotations: object) -> Annotations:
    """Read {"annotations": [{"image_id": VIDEO, "caption": TEXT}]} as one split, `all`."""
    captions: dict[str, list[str]] = {}
    try:
        for annotation in annotations:  # type: ignore[attr-defined]
            captions.setdefault(_text(annotation["image_id"]), []).append(_text(annotation["caption"]))
    except (LookupError, TypeError) as error:
        raise VactkError(
            f"'{path}' must hold `annotations` with image_id and caption ({type(error).__name__}: {error})"
        ) from error
    return Annotations(
        splits={
            "all": tuple(AnnotationEntry(video=video, captions=tuple(own)) for video, own in captions.items())
        }
    )


def read_caption_numbers(path: Path) -> dict[str, int]:
    """Read jsfusion_val_caption_idx.pkl: the index of the caption that 1k-A uses for each video.

    Nothing in the pickle is run. Raises VactkError where it is anything but a table of text and numbers.
    """
    try:
        content = path.read_bytes()
        if any(
            op.name in ("PUT", "LONG_BINPUT") and int(arg or 0) > len(content)
            for op, arg, _ in genops(content)
        ):
            raise ValueError(
                "it numbers more objects than it holds"
            )  # for which pickle would allocate memory
        table = _PlainUnpickler(io.BytesIO(content)).load()
        if not isinstance(table, dict) or not all(type(number) is int for number in table.values()):
            raise TypeError("not a table of numbers")
        return {bare_name(_text(video)): number for video, number in table.items()}
    except Exception as error:  # pickle raises nearly anything on damaged data
        raise VactkError(
            f"'{path}' is not a pickled table of videos and numbers ({error or type(error).__name__})"
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values; refuses everything that names a class or a function."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]} is not text")
    return value


def _length_s(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else float(end_s) - float(start_s)
