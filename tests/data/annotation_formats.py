"""The readers of annotation files by the names of their formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vactk.data.annotations.classes import read_classes
from vactk.data.annotations.entries import Annotations
from vactk.data.annotations.hmdb51 import read_hmdb51
from vactk.data.annotations.kinetics import read_kinetics_csv, read_kinetics_json
from vactk.data.annotations.lists import read_blank_list, read_comma_list, read_list
from vactk.data.annotations.msrvtt import read_msrvtt_csv, read_msrvtt_json
from vactk.data.annotations.ssv2 import read_ssv2_answers, read_ssv2_labels, read_ssv2_list
from vactk.data.annotations.ucf101 import read_ucf101

FORMATS: dict[str, Callable[[Path], Annotations]] = {
    "hmdb51-splits": read_hmdb51,
    "ucf101-splits": read_ucf101,
    "kinetics-csv": read_kinetics_csv,
    "kinetics-json": read_kinetics_json,
    "ssv2-labels": read_ssv2_labels,
    "ssv2-list": read_ssv2_list,
    "ssv2-answers": read_ssv2_answers,
    "msrvtt-json": read_msrvtt_json,
    "msrvtt-csv": read_msrvtt_csv,
    "comma-list": read_comma_list,
    "blank-list": read_blank_list,
    "list": read_list,
    "classes": lambda path: Annotations(classes=read_classes(path)),
}


def read_annotations(path: Path, form: str) -> Annotations:
    """Read an annotation file or folder of a format in FORMATS."""
    return FORMATS[form](path)
