from __future__ import annotations

import json
import os
import pickle

import pytest

from tests.data import trees
from vactk.data.annotations.hmdb51 import read_hmdb51
from vactk.data.annotations.kinetics import read_kinetics_csv, read_kinetics_json
from vactk.data.annotations.msrvtt import read_caption_numbers, read_msrvtt_csv, read_msrvtt_json
from vactk.data.annotations.ssv2 import read_ssv2_answers, read_ssv2_labels, read_ssv2_list
from vactk.data.annotations.ucf101 import read_ucf101
from vactk.errors import VactkError


def wrong(read, path, text, match):
    path.write_text(text)
    with pytest.raises(VactkError, match=match):
        read(path if path.suffix != ".folder" else path.parent)


def test_hmdb51_classes_are_in_the_order_of_their_names(tmp_path):
    found = read_hmdb51(trees.hmdb51(tmp_path) / "testTrainMulti_7030_splits")
    assert found.classes == ("brush_hair", "kick", "kick_ball")  # sorted files would put kick_ball first
    assert {name: len(entries) for name, entries in found.splits.items()} == {
        **{
            f"{part}{n}": 6 if part == "train" else 3
            for n in (1, 2, 3)
            for part in ("unused", "train", "test")
        },
        "all": 12,
    }


def test_hmdb51_files_that_are_wrong(tmp_path):
    folder = trees.hmdb51(tmp_path) / "testTrainMulti_7030_splits"
    (folder / "kick_test_split2.txt").unlink()
    assert read_hmdb51(folder).problems == ("no file for class kick split 2",)
    (folder / "kick_test_split1.txt").write_text("a.avi 1\nb.avi 3\n")
    with pytest.raises(
        VactkError, match=r"kick_test_split1.txt' line 2 must be a file name and 0, 1 or 2, got 'b.a"
    ):
        read_hmdb51(folder)
    with pytest.raises(VactkError, match=r"has no files such as brush_hair_test_split1.txt"):
        read_hmdb51(tmp_path)
    with pytest.raises(VactkError, match=r"cannot read '.*absent'"):
        read_hmdb51(tmp_path / "absent")


def test_ucf101_files_that_are_wrong(tmp_path):
    folder = trees.ucf101(tmp_path) / "ucfTrainTestlist"
    (folder / "trainlist01.txt").write_text("TaiChi/v_TaiChi_g01_c01.avi 3\n")
    assert "has number 3, YoYo" in read_ucf101(folder).problems[0]
    (folder / "testlist01.txt").write_text("Skiing/v_Skiing_g01_c01.avi\n")
    with pytest.raises(VactkError, match=r"testlist01.txt' line 1 has a class missing from classInd.txt"):
        read_ucf101(folder)
    (folder / "classInd.txt").write_text("ApplyEyeMakeup\n")
    with pytest.raises(VactkError, match=r"classInd.txt' line 1 must be a number and a class"):
        read_ucf101(folder)


def test_ucf101_lists_without_folders_are_labelled_by_the_files_names(tmp_path):
    folder = trees.ucf101(tmp_path) / "ucfTrainTestlist"
    (folder / "testlist01.txt").write_text("v_HandStandPushups_g01_c01.avi\n")
    assert [entry.label for entry in read_ucf101(folder).splits["test1"]] == ["HandstandPushups"]


def test_kinetics_in_json_is_the_same_as_in_csv(tmp_path):
    table = read_kinetics_csv(trees.kinetics(tmp_path / "k") / "kinetics-400_val.csv")
    items = {
        video: {"annotations": {"label": label, "segment": [start, end]}, "subset": "validate"}
        for label, video, start, end, _ in trees.KINETICS_ROWS
    }
    (tmp_path / "val.json").write_text(json.dumps(items))
    assert read_kinetics_json(tmp_path / "val.json") == table


def test_kinetics_files_that_are_wrong(tmp_path):
    path = tmp_path / "val.csv"
    head = "label,youtube_id,time_start,time_end\n"
    wrong(read_kinetics_csv, path, "", "is empty")
    wrong(read_kinetics_csv, path, "label;youtube_id\n", "must name youtube_id, time_start, time_end")
    wrong(read_kinetics_csv, path, head + "run,abc,1\n", "line 2 has 3 cells, not 4")
    wrong(read_kinetics_csv, path, head + "run,abc,1,x\n", "line 2 has times that are not numbers")
    wrong(read_kinetics_json, tmp_path / "v.json", "[]", "must hold an object")
    wrong(read_kinetics_json, tmp_path / "v.json", '{"abc": {}}', "'abc' has no annotations with a segment")


def test_something_something_files_that_are_wrong(tmp_path):
    path = tmp_path / "x.json"
    wrong(read_ssv2_labels, path, '["a"]', "must map every class to a number")
    wrong(read_ssv2_labels, path, '{"a": "0", "b": "2"}', "must be 0 to 1, each once")
    wrong(read_ssv2_list, path, "{}", "must hold a list of videos")
    wrong(read_ssv2_list, path, '[{"label": "x"}]', "every video needs an id")
    wrong(read_ssv2_answers, tmp_path / "a.csv", "1,x\n", "must be an id and a class separated by ';'")


def test_msrvtt_files_that_are_wrong(tmp_path):
    wrong(read_msrvtt_json, tmp_path / "x.json", '{"videos": []}', "must hold `videos` .* and `sentences`")
    wrong(read_msrvtt_csv, tmp_path / "x.csv", "", "is empty")
    wrong(
        read_msrvtt_csv,
        tmp_path / "x.csv",
        "key,sentence\nret0,a dog\n",
        "must be a video id, unless the first line",
    )
    wrong(
        read_msrvtt_csv,
        tmp_path / "x.csv",
        "key,video_id,sentence\nret0,video1\n",
        "line 2 has 2 cells, not 3",
    )
    wrong(
        read_msrvtt_json,
        tmp_path / "x.json",
        '{"annotations": [{}]}',
        "must hold `annotations` with image_id",
    )
    wrong(
        read_msrvtt_json, tmp_path / "x.json", '{"annotations": 3}', "must hold `annotations` with image_id"
    )
    (tmp_path / "y.json").write_text(
        json.dumps({"videos": [], "sentences": [{"video_id": "video1", "sen_id": 0, "caption": "x"}]})
    )
    assert read_msrvtt_json(tmp_path / "y.json").problems == (
        "captions for 'video1', which is not in the list of videos",
    )


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"video1": Harmful()}), r"it refers to .*\.mkdir"),
        (pickle.dumps({"video1": "3"}), "not a table of numbers"),
        (pickle.dumps(["video1"]), "not a table of numbers"),
        (pickle.dumps({3: 1}), "3 is not text"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "it numbers more objects than it holds"),
        (b"nothing", "is not a pickled table"),
        (b"", "is not a pickled table"),
    ],
)
def test_a_pickled_table_is_read_as_data_or_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "jsfusion_val_caption_idx.pkl"
    path.write_bytes(content)
    with pytest.raises(VactkError, match=message):
        read_caption_numbers(path)
    assert not (tmp_path / "harmed").exists()


def test_msrvtts_empty_captions_are_left_out_and_counted(tmp_path):
    path = trees.msrvtt(tmp_path) / "MSRVTT_data.json"
    path.write_text(path.read_text().replace("caption 1 of 2", " "))
    found = read_msrvtt_json(path)
    assert found.splits["val"][0].captions == ("caption 0 of 2", "caption 2 of 2")
    assert found.problems == ("1 empty captions are ignored",)
