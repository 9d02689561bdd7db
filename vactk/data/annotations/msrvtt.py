"""MSR-VTT's JSON of videos and captions, and the lists of ids or of id and caption that split it."""

from __future__ import annotations

from pathlib import Path

from vactk.data.annotations.entries import AnnotationEntry, Annotations
from vactk.errors import VactkError
from vactk.files.text import DELIMITERS, read_json, read_lines, read_rows, wrong_line

SPLIT_NAMES = {"validate": "val", "validation": "val"}


def read_msrvtt_json(path: Path) -> Annotations:
    """Splits as the field `split` says. Captions are in the order of their numbers, and may repeat."""
    content = read_json(path)
    try:
        captions: dict[str, list[tuple[int, str]]] = {video["video_id"]: [] for video in content["videos"]}
        for sentence in content["sentences"]:
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
    strangers = [f"captions for '{video}', which is not among the videos" for video in captions]
    return Annotations(
        splits={name: tuple(entries) for name, entries in splits.items()}, problems=tuple(strangers)
    )


def read_msrvtt_csv(path: Path) -> Annotations:
    """A list with a header that names `video_id`, perhaps `sentence`, or ids alone, a line each."""
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
        if any(delimiter in line for delimiter in DELIMITERS) or " " in line:
            raise wrong_line(path, number, f"must be a video's id, or the first line name video_id: '{line}'")
        entries.append(AnnotationEntry(video=line))
    return entries


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]} is no text")
    return value


def _length_s(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else float(end_s) - float(start_s)
