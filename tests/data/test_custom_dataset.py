from __future__ import annotations

import pytest

from tests.data.trees import touch
from vactk.data.custom_dataset import open_custom_dataset
from vactk.data.datasets import find_dataset
from vactk.errors import VactkError


def make(root, *videos):
    for video in videos:
        touch(root / video)
    return root


def labels(videos):
    return {record.video.name: videos.classes[record.label] for record in videos.records}


def test_a_folder_for_each_class(tmp_path):
    make(tmp_path, *(f"{label}/{label}{n}.mp4" for label in ("run", "Arm_wrestling") for n in range(10)))
    touch(tmp_path / "run" / ".hidden.mp4")
    touch(tmp_path / "run" / "notes.txt")
    dataset = find_dataset(str(tmp_path))
    everything = dataset.load("all")
    assert everything.classes == ("Arm_wrestling", "run")
    assert everything.words == ("arm wrestling", "run")
    assert len(everything.records) == 20
    assert dataset.test_split == "all"
    train, test = (dataset.load(split) for split in (dataset.train_split, *dataset.eval_splits))
    assert not labels(train).keys() & labels(test).keys()
    assert (len(train.records), len(test.records)) == (16, 4)
    assert sorted(labels(test).values()) == ["Arm_wrestling"] * 2 + ["run"] * 2


def test_what_is_held_out_does_not_depend_on_the_folder(tmp_path):
    names = [f"run/{n}.mp4" for n in range(10)] + ["jump/1.mp4"]
    one, two = (find_dataset(str(make(tmp_path / place, *names))).load("test") for place in ("a", "b"))
    assert labels(one) == labels(two)
    assert len(labels(one)) == 2  # a class with one video is trained on


def test_pieces_of_a_recording_are_not_tested_on_what_was_trained_on(tmp_path):
    names = [f"{label}/{video}_part{n}.mp4" for label in ("a", "b") for video in "uvwxy" for n in range(4)]
    dataset = find_dataset(str(make(tmp_path, *(name.replace("/", f"/{name[0]}") for name in names))))
    assert dataset.derived
    train, test = ({name.split("_")[0] for name in labels(dataset.load(s))} for s in ("train", "test"))
    assert (len(train), len(test)) == (8, 2)
    assert not train & test


def test_a_lone_training_folder_is_split_and_a_validation_folder_beside_a_test_one_is_kept(tmp_path):
    lone = make(tmp_path / "lone", *(f"train/{label}/{label}{n}.mp4" for label in "ab" for n in range(5)))
    dataset = find_dataset(str(lone))
    assert (dataset.train_split, dataset.eval_splits, dataset.validation_split) == ("train", ("test",), "")
    train, test = (labels(dataset.load(split)) for split in ("train", "test"))
    assert (len(train), len(test), len({*train} & {*test})) == (8, 2, 0)
    three = find_dataset(str(make(tmp_path / "three", "train/a/1.mp4", "valid/a/2.mp4", "test/a/3.mp4")))
    assert (three.eval_splits, three.validation_split, three.derived) == (("test",), "valid", False)


def test_what_is_there_to_test_on_is_not_trained_on(tmp_path):
    dataset = find_dataset(str(make(tmp_path, "test/run/1.mp4", "test/jump/2.mp4")))
    assert len(dataset.load("test").records) == 2
    with pytest.raises(VactkError, match=r"has only .test. videos, none to train on: name some .train."):
        dataset.load(dataset.train_split)


def test_folders_of_splits(tmp_path):
    make(tmp_path, "train/run/1.mp4", "train/jump/2.mp4", "val/run/3.mp4", "val/jump/4.mp4")
    dataset = find_dataset(str(tmp_path))
    assert (dataset.train_split, dataset.eval_splits, dataset.test_split) == ("train", ("val",), "val")
    assert labels(dataset.load("val")) == {"3.mp4": "run", "4.mp4": "jump"}
    with pytest.raises(VactkError, match=r"unknown split of .* 'vla'; did you mean 'val'"):
        dataset.load("vla")


def test_a_list_with_paths_beside_it_elsewhere_and_absolute(tmp_path):
    make(tmp_path / "here", "a/1.mp4")
    make(tmp_path / "there", "2.mp4")
    path = tmp_path / "here" / "list.csv"
    path.write_text(f"path,label\na/1.avi,run\n{tmp_path}/there/2.mp4,jump\n")
    videos = find_dataset(str(path)).load("all")
    assert labels(videos) == {"1.mp4": "run", "2.mp4": "jump"}
    assert videos.report.notes == ("1 of 2 paths are absolute, the others relative",)
    moved = tmp_path / "list.csv"
    moved.write_text("path,label\na/1.mp4,run\n")
    assert labels(find_dataset(str(moved)).load("all", root=tmp_path / "here")) == {"1.mp4": "run"}


def test_the_same_name_in_another_folder_is_not_the_video(tmp_path):
    make(tmp_path, "a/1.mp4")
    path = tmp_path / "list.csv"
    path.write_text("path,label\na/1.mp4,run\nb/1.mp4,jump\n")
    videos = find_dataset(str(path)).load("all")
    assert videos.report.missing == ("b/1.mp4",)
    assert videos.missing == {1}


def test_parts_of_one_video_are_records_of_their_own(tmp_path):
    make(tmp_path, "1.mp4")
    path = tmp_path / "list.csv"
    path.write_text("path,label,start,end\n1.mp4,run,0,2\n1.mp4,jump,2,4\n1.mp4,run,0,2\n")
    videos = find_dataset(str(path)).load("all")
    assert [(r.start_s, r.end_s, videos.classes[r.label]) for r in videos.records] == [
        (0, 2, "run"),
        (2, 4, "jump"),
    ]
    assert videos.report.duplicated == ("1.mp4",)


def test_numbers_are_named_by_a_table_or_by_the_folders(tmp_path):
    make(tmp_path, "hop/1.mp4", "run/2.mp4")
    path = tmp_path / "train.csv"
    path.write_text("hop/1.mp4,0\nrun/2.mp4,1\n")
    assert find_dataset(str(path)).load("all").classes == ("hop", "run")
    (tmp_path / "classes.txt").write_text("hopping\nrunning\n")
    assert find_dataset(str(path)).load("all").classes == ("hopping", "running")
    (tmp_path / "train.classes.txt").write_text("hops\n")
    with pytest.raises(VactkError, match="has label 1, but there are 1 class names"):
        find_dataset(str(path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "there are no videos in '.*'; expected a folder per class"),
        (["notes.txt"], "there are no videos in"),
        (["run/1.mp4", "2.mp4"], r"2.mp4' is not in a class folder; expected .*/CLASS/2.mp4"),
        (["Jump_high/1.mp4", "jump high/2.mp4"], "two classes of the same name: 'Jump_high' and 'jump high'"),
    ],
)
def test_folders_that_are_wrong(tmp_path, files, message):
    make(tmp_path, *files)
    with pytest.raises(VactkError, match=message):
        find_dataset(str(tmp_path)).load("all")


def test_empty_classes_are_reported(tmp_path):
    make(tmp_path, "run/1.mp4", "jump/notes.txt")
    videos = find_dataset(str(tmp_path)).load("all")
    assert videos.classes == ("run",)
    assert any("has a class without videos: 'jump'" in line for line in videos.report.lines())
    path = tmp_path / "list.csv"
    path.write_text("path,label\nrun/1.mp4,run\n")
    (tmp_path / "classes.txt").write_text("run\nswim\n")
    assert find_dataset(str(path)).load("all").report.empty_classes == ("swim",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.mp4,run\na.mp4,jump\n", "'a.mp4' is listed with two classes, 'run' and 'jump'"),
        ("path,label\na.mp4,swimm\n", "unknown class 'swimm'; did you mean 'swim'"),
        ("path,label\nb.mp4,run\n", "none of the 1 videos of list.csv/all is under"),
        ("a.mp4,0\nb.mp4,9\n", "has label 9, but there are 3 class names"),
    ],
)
def test_lists_that_are_wrong(tmp_path, text, message):
    make(tmp_path, "a.mp4")
    (tmp_path / "classes.txt").write_text("run\njump\nswim\n")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(VactkError, match=message):
        find_dataset(str(tmp_path / "list.csv")).load("all")


def test_numbers_that_nothing_names_are_refused(tmp_path):
    make(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    with pytest.raises(VactkError, match=r"numeric labels but no class names: list the names, .*classes.txt"):
        open_custom_dataset(tmp_path / "list.txt")


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(VactkError, match=r"there is no folder or list '.*absent'"):
        find_dataset(str(tmp_path / "absent"))
    with pytest.raises(VactkError, match=r"there is no folder or list 'absent.csv'"):
        find_dataset("absent.csv")
