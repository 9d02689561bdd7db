"""What a user can get wrong before any work begins, and what the command line answers."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from vactk.cli.app import app

CASES = [
    (["train"], "pass --dataset NAME, such as --dataset shapes"),
    (["train", "--dataset", "shaeps"], "unknown dataset 'shaeps'; did you mean 'shapes'?"),
    (["train", "--dataset", "shapes", "--recipe", "m2clip-shaeps"], "unknown recipe 'm2clip-shaeps'; did you mean"),
    (["train", "--dataset", "shapes", "--recipe", "absent.yaml"], "cannot read 'absent.yaml'"),
    (["train", "--dataset", "shapes", "optim.rl=1"], "unknown setting 'optim.rl'; did you mean 'optim.lr'?"),
    (["train", "--dataset", "shapes", "optim.lr=fast"], "'optim.lr' must be a number, got 'fast'"),
    (["train", "--dataset", "shapes", "optim.lr"], "settings are given as key=value, got 'optim.lr'"),
    (["train", "--dataset", "shapes", "--decoder", "opencv"], "'data.decoder' must be one of auto, decord, pyav"),
    (["train", "--dataset", "shapes", "--precision", "fp8"], "'run.precision' must be one of auto, fp32, bf16, fp16"),
    (["train", "--dataset", "shapes", "--templates", "nice"], "unknown set of templates 'nice'"),
    (["train", "--dataset", "shapes", "model.temporal=ted_adaptor"], "unknown temporal module 'ted_adaptor'; did you mean 'ted_adapter'"),
    (["train", "--dataset", "shapes", "--resume"], "--resume requires --output FOLDER"),
    (["train", "--dataset", "shapes", "run.accumulate=5"], "batch_size 32 is not divisible by accumulate=5"),
    (["report", "absent"], "there is no folder 'absent'"),
    (["report", ".", "--output", "report.txt"], "--output must end in .html, got 'report.txt'"),
    (["report", "."], "there is no predictions.csv in '.'"),
    (["zeroshot"], "give either videos with --labels, or a --dataset"),
    (["zeroshot", "x.mp4"], "pass --labels, or a --checkpoint trained on labelled classes"),
    (["zeroshot", "--dataset", "shapes", "--labels", "a,b"], "a dataset brings its own labels"),
    (["train", "--dataset", "shapes", "shots=-1"], "shots must be at least 0"),
    (["train", "--dataset", "shapes", "model.temporal.placement=pre_norm"], "'model.temporal.placement' must be one of"),
    (["train", "--dataset", "shapes", "model.temporal.width=-3"], "an adapter needs a width of at least 0"),
    (["train", "--dataset", "shapes", "model.text_adapter.layers=40"], "text adapters need layers from 0 to"),
    (["zeroshot", "x.mp4", "--labels", ","], "--labels is empty"),
    (["zeroshot", "x.mp4", "--labels", " "], "--labels is empty"),
    (["zeroshot", "x.mp4", "--labels", "a,,b"], "--labels holds an empty label"),
    (["zeroshot", "x.mp4", "--labels", "run,jump, Run"], "--labels holds 'Run' twice"),
    (["zeroshot", "absent.mp4", "--labels", "a,b"], "there is no file or folder 'absent.mp4'"),
    (["zeroshot", "--dataset", "shapes", "--split", "unsene"], "unknown split of shapes 'unsene'; did you mean 'unseen'?"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "ViT-B-61"], "unknown backbone 'ViT-B-61'; did you mean 'ViT-B-16'?"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "RN50"], "backbone 'RN50' cannot carry temporal modules: its vision tower is a ResNet"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "ViT-B-16", "--pretrained", "openia"], "unknown pretrained tag or file 'openia' for backbone 'ViT-B-16'; did you mean 'openai'?"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "toy", "--pretrained", "openai"], "backbone 'toy' brings its own weights"),
    (["zeroshot", "--dataset", "shapes", "--checkpoint", "absent.safetensors"], "there is no file 'absent.safetensors'"),
    (["zeroshot", "--dataset", "shapes", "--checkpoint", "x", "--backbone", "toy"], "a checkpoint names its own backbone"),
    (["zeroshot", "--dataset", "shapes", "--checkpoint", "x", "--temporal", "none"], "a checkpoint names its own temporal module"),
    (["zeroshot", "--dataset", "shapes", "--temporal", "none"], "--temporal says what another project's --checkpoint does not"),
    (["zeroshot", "--dataset", "shapes", "--checkpoint", "x", "--temporal", "{a"], "cannot read the value of --temporal, '{a'"),
    (["interpolate", "a", "b"], "give exactly one of --alpha, --weights, --soup, --task-vector, --sweep; got none"),
    (["interpolate", "a", "b", "--alpha", "0.5", "--soup", "uniform"], "got --alpha and --soup"),
    (["interpolate", "a", "b", "--alpha", "nan"], "--alpha must be a finite number, got nan"),
    (["interpolate", "a", "b", "--alpha", "0.5"], "there is no file 'a'"),
    (["interpolate", "a", "b", "--weights", "1,x"], "--weights are numbers separated by commas, such as 1,1,2; got '1,x'"),
    (["interpolate", "a", "b", "--weights", "1,-1"], "--weights must not sum to 0; got '1,-1'"),
    (["interpolate", "a", "b", "--soup", "gready"], "unknown kind of soup 'gready'; did you mean 'greedy'?"),
    (["interpolate", "a", "b", "--soup", "greedy"], "--sweep and --soup greedy require --dataset"),
    (["interpolate", "a", "b", "--soup", "uniform", "--dataset", "shapes"], "--dataset requires --sweep or --soup greedy"),
    (["interpolate", "a", "b", "--soup", "uniform", "--alpha-of", "text=1"], "--alpha-of requires --alpha or --sweep"),
    (["interpolate", "a", "b", "--alpha", "1", "--alpha-of", "text"], "--alpha-of is given as PART=ALPHA, such as vision=0.3; got 'text'"),
    (["interpolate", "a", "b", "--alpha", "1", "--alpha-of", "text=inf"], "got 'text=inf'"),
    (["interpolate", "a", "b", "--sweep", "0:1"], "cannot read --sweep '0:1'; give it as START:STOP:STEP, such as 0:1:0.1"),
    (["interpolate", "a", "b", "--sweep", "0:one:0.1"], "cannot read --sweep '0:one:0.1'"),
    (["interpolate", "a", "b", "--sweep", "0:1:0"], "--sweep '0:1:0' is empty"),
    (["interpolate", "a", "b", "--sweep", "1:0:0.1"], "--sweep '1:0:0.1' is empty"),
    (["interpolate", "a", "b", "--sweep", "0:1:nan"], "--sweep '0:1:nan' is empty"),
    (["interpolate", "a", "b", "--sweep", "0:1:0.0001"], "has 10001 points, more than 1000"),
    (["interpolate", "a", "b", "--sweep", "0:1:0.1"], "--sweep and --soup greedy require --dataset"),
    (["export"], "what to export? name a --checkpoint, or a --backbone"),
    (["export", "--backbone", "toy"], "where to? name a folder with --output"),
    (["export", "--backbone", "toy", "--output", "o", "--format", "onxx"], "unknown format 'onxx'; did you mean 'onnx'?"),
    (["export", "--backbone", "toy", "--output", "o", "--part", "vidoe"], "unknown part 'vidoe'; did you mean 'video'?"),
    (["export", "--backbone", "toy", "--output", "o", "--labels", ""], "--labels is empty"),
    (["export", "--backbone", "toy", "--output", "o", "--labels", "a,,b"], "--labels holds an empty label"),
    (["export", "--backbone", "toy", "--output", "o", "--precision", "fp8"], "--precision must be fp32 or fp16, got 'fp8'"),
    (["export", "--backbone", "toy", "--output", "o", "--precision", "fp16", "--quantize", "int8"], "--quantize int8 is a precision of its own"),
    (["export", "--backbone", "toy", "--output", "o", "--precision", "fp16", "--format", "pt2"], "float16 is for --format onnx alone"),
    (["export", "--backbone", "toy", "--output", "o", "--quantize", "int8", "--part", "text"], "--quantize measures its loss with the video encoder: add --part video"),
    (["export", "--backbone", "toy", "--output", "o", "--opset", "3"], "--opset must be from 18 to 23, got 3"),
    (["export", "--backbone", "toy", "--output", "o", "--split", "seen"], "--split is a part of a --dataset: name one"),
    (["export", "--backbone", "toy", "--output", "o", "--results", "r.json"], "--results go into the model card of --format huggingface"),
    (["export", "--backbone", "toy", "--output", "o", "--format", "huggingface", "--results", "r.json"], "cannot read results from 'r.json'"),
    (["export", "--backbone", "toy", "--output", "o", "--temporal", "none"], "--temporal says what another project's --checkpoint does not"),
    (["export", "--backbone", "toy", "--output", "o", "--part", "video", "--by", "class_head"], "--by is for the classifier"),
    (["export", "--backbone", "toy", "--output", "o", "--part", "classifier", "--video", "a.mp4"], "a classifier needs classes: name them with --labels"),
    (["export", "--checkpoint", "absent.safetensors", "--output", "o"], "there is no file 'absent.safetensors'"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "message"), CASES, ids=[" ".join(args) for args, _ in CASES])
def test_mistakes_are_answered_with_the_way_out(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, args, prog_name="vactk")
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert result.stdout == ""


def test_weights_that_cannot_be_downloaded(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no retries: the answer at once
    args = ["zeroshot", "--dataset", "shapes", "--backbone", "ViT-B-16"]
    result = CliRunner().invoke(app, args, prog_name="vactk")
    assert result.exit_code == 1
    assert (
        "the weights 'openai' of backbone 'ViT-B-16' are not on this machine and cannot be downloaded"
        in result.stderr
    )
    assert "--pretrained FILE, or try --backbone toy" in result.stderr


def test_every_wrong_setting_is_named_at_once():
    args = ["train", "--dataset", "shapes", "optim.rl=1", "run.epochs=x", "data.transfrom.flip=1"]
    result = CliRunner().invoke(app, args, prog_name="vactk")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 3
    assert all(line.startswith("Error: ") for line in result.stderr.splitlines())
