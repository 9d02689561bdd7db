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
    (["zeroshot", "x.mp4", "--labels", ","], "--labels ',' is empty: name at least two"),
    (["zeroshot", "x.mp4", "--labels", " "], "--labels ' ' is empty: name at least two"),
    (["zeroshot", "x.mp4", "--labels", "a,,b"], "--labels 'a,,b' holds an empty label: leave it out"),
    (["zeroshot", "x.mp4", "--labels", "run,jump,run"], "--labels holds 'run' twice: leave one out"),
    (["zeroshot", "absent.mp4", "--labels", "a,b"], "there is no video or folder 'absent.mp4'"),
    (["zeroshot", "--dataset", "shapes", "--split", "unsene"], "unknown split of shapes 'unsene'; did you mean 'unseen'?"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "ViT-B-61"], "unknown backbone 'ViT-B-61'; did you mean 'ViT-B-16'?"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "RN50"], "backbone 'RN50' cannot carry temporal modules: its vision tower is a ResNet"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "ViT-B-16", "--pretrained", "openia"], "unknown pretrained tag or file 'openia' for backbone 'ViT-B-16'; did you mean 'openai'?"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "toy", "--pretrained", "openai"], "backbone 'toy' brings its own weights"),
    (["zeroshot", "--dataset", "shapes", "--checkpoint", "absent.safetensors"], "there is no checkpoint 'absent.safetensors': name a file, or a run folder"),
    (["zeroshot", "--dataset", "shapes", "--checkpoint", ".", "--backbone", "toy"], "a checkpoint names its own backbone"),
    (["zeroshot", "--dataset", "shapes", "--checkpoint", ".", "--temporal", "none"], "a checkpoint names its own temporal module"),
    (["zeroshot", "--dataset", "shapes", "--temporal", "none"], "--temporal says what another project's --checkpoint does not"),
    (["zeroshot", "--dataset", "shapes", "--checkpoint", "x", "--temporal", "{a"], "cannot read the value of --temporal, '{a'"),
    (["interpolate", "a", "b"], "give exactly one of --alpha, --weights, --soup, --task-vector, --sweep; got none"),
    (["interpolate", "a", "b", "--alpha", "0.5", "--soup", "uniform"], "got --alpha and --soup"),
    (["interpolate", "a", "b", "--alpha", "nan"], "--alpha must be a finite number, got nan"),
    (["interpolate", "a", "b", "--alpha", "0.5"], "there is no file 'a'"),
    (["interpolate", "a", "b", "--weights", "1,x"], "--weights are numbers separated by commas, such as 1,1,2; got '1,x'"),
    (["interpolate", "a", "b", "--weights", "1,-1"], "--weights must not sum to 0; got '1,-1'"),
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
    (["export", "--backbone", "toy", "--output", "o", "--part", "vidoe"], "unknown part 'vidoe'; did you mean 'video'?"),
    (["export", "--backbone", "toy", "--output", "o", "--labels", ""], "--labels '' is empty"),
    (["export", "--backbone", "toy", "--output", "o", "--labels", "a,,b"], "--labels 'a,,b' holds an empty label"),
    (["export", "--backbone", "toy", "--output", "o", "--precision", "fp16", "--quantize", "int8"], "--quantize int8 is a precision of its own"),
    (["export", "--backbone", "toy", "--output", "o", "--precision", "fp16", "--format", "pt2"], "float16 is for --format onnx alone"),
    (["export", "--backbone", "toy", "--output", "o", "--quantize", "int8", "--part", "text"], "--quantize measures its loss with the video encoder: add --part video"),
    (["export", "--backbone", "toy", "--output", "o", "--split", "seen"], "--split is a part of a --dataset: name one"),
    (["export", "--backbone", "toy", "--output", "o", "--results", "r.json"], "--results go into the model card of --format huggingface"),
    (["export", "--backbone", "toy", "--output", "o", "--format", "huggingface", "--results", "r.json"], "there is no file 'r.json'"),
    (["export", "--backbone", "toy", "--output", "o", "--temporal", "none"], "--temporal says what another project's --checkpoint does not"),
    (["export", "--backbone", "toy", "--output", "o", "--part", "video", "--by", "class_head"], "--by is for the classifier"),
    (["export", "--backbone", "toy", "--output", "o", "--part", "classifier", "--video", "a.mp4"], "there is no file 'a.mp4'"),
    (["export", "--checkpoint", "absent.safetensors", "--output", "o"], "there is no checkpoint 'absent.safetensors': name a file, or a run folder"),
    (["zeroshot", "x.mp4", "--labels", "dancing"], "--labels holds 'dancing' alone, which every video would get: name at least two"),
    (["zeroshot", "x.mp4", "--labels", "nolabels.txt"], "--labels: there is no file 'nolabels.txt'"),
    (["zeroshot", "x.mp4", "--labels", "run,Run"], "--labels holds 'Run' and 'run', which differ by case only: leave one out"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--templates", "a video"], "the template 'a video' has no {} for the class: write it as 'a video {}'"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--frames", "1000000"], "got 1,000,000 x 1: see less of each video, such as --frames 8"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--processes", "6400"], "--processes 6400 are too many for"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--stride", "1"], "--stride is for answers over time: add --window SECONDS"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--multi-label"], "--multi-label is for answers over time: add --window SECONDS"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--threshold", "0.2"], "--threshold is for answers over time: add --window SECONDS"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--window", "4", "--by", "class_head"], "--window answers by similarity: leave out --by class_head"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--window", "4", "--top", "3"], "--top is for videos as wholes"),
    (["zeroshot", "--dataset", "shapes", "--backbone", "toy", "--top", "3"], "--top is for the answers to videos: name files or folders"),
    (["zeroshot", "--dataset", "shapes", "--output", "a", "--output", "b"], "--output takes one folder for a dataset or protocol, got 2"),
    (["zeroshot", "--protocol", "hmdb51/ep9"], "unknown protocol 'hmdb51/ep9'; did you mean"),
    (["zeroshot", "--protocol", "hmdb51/ep2", "--split", "x"], "a protocol names its own splits: leave out --split"),
    (["train", "--dataset", "shapes", "--processes", "6400"], "use at most"),
    (["train", "--dataset", "shapes", "lr=0.1"], "unknown setting 'lr'; did you mean 'optim.lr'?"),
    (["train", "--dataset", "shapes", "optim.learning_rate=0.1"], "unknown setting 'optim.learning_rate'; did you mean 'optim.lr'?"),
    (["train", "--dataset", "shapes", "epochs=3"], "unknown setting 'epochs'; did you mean 'run.epochs'?"),
    (["train", "--dataset", "no/such/folder"], "there is no folder or list 'no/such/folder': name one with a folder per class"),
    (["finetune", "--dataset", "list.csv"], "there is no folder or list 'list.csv'"),
    (["finetune"], "no dataset: pass --dataset NAME"),
    (["finetune", "--dataset", "shapes", "--recipe", "nope"], "unknown recipe 'nope'; choose from"),
    (["train", "--dataset", "shapes", "--epochs", "-1"], "epochs, batch_size, accumulate and eval_batch_size must be above 0"),
    (["train", "--dataset", "shapes", "--templates", "{} and {}"], "a template needs exactly one {} for the class, got '{} and {}'"),
    (["data", "check", "nowhere"], "there is no dataset, folder or list 'nowhere': choose from shapes"),
    (["data", "prepare", "kinetics"], "unknown benchmark 'kinetics'; choose from hmdb51"),
    (["data", "convert", "nowhere", "--output", "o"], "there is no folder 'nowhere'"),
    (["retrieve", "--evaluate", "--protocol", "hmdb51/ep2"], "'hmdb51/ep2' is not a retrieval protocol: evaluate it with `vactk zeroshot`"),
    (["retrieve", "--index", "i", "--add", "nowhere", "--backbone", "toy"], "nor is there a folder or a list 'nowhere'"),
    (["report", "a", "b"], "there is no folder 'a'"),
]  # fmt: skip
TOY_EXPORT = ["export", "--backbone", "toy", "--output", "o"]
USAGE = [
    (["train", "--dataset", "shapes", "--decoder", "opencv"], "'--decoder': 'opencv' is not one of 'auto', 'decord', 'pyav'; see `vactk train --help`"),
    (["train", "--dataset", "shapes", "--precision", "fp8"], "'--precision': 'fp8' is not one of 'auto', 'fp32', 'bf16', 'fp16'"),
    (["train", "--dataset", "shapes", "--device", "tpu"], "'--device': 'tpu' is not one of"),
    (["train", "--dataset", "shapes", "--batch-size", "0"], "greater than or equal to 1, got '0'"),
    (["train", "--dataset", "shapes", "--seed", "-1"], "greater than or equal to 0, got '-1'"),
    (["train", "--dataset", "shapes", "--shots", "x"], "valid integer, unable to parse string as an integer, got 'x'"),
    (["train", "--dataset", "shapes", "--no-such-option"], "No such option: --no-such-option"),
    (["tarin"], "No such command 'tarin'. Did you mean 'train'?"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--frames", "0"], "'--frames': Input should be greater than or equal to 1, got '0'"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--frames", "x"], "got 'x'; see `vactk zeroshot --help`"),
    (["zeroshot", "x.mp4", "--labels", "a,b", "--window", "2", "--threshold", "7"], "less than or equal to 1, got '7'"),
    (["zeroshot", "--dataset", "shapes", "--max-failed", "3"], "less than or equal to 1, got '3'"),
    (["zeroshot", "--dataset", "shapes", "--unreadable", "ignore"], "'ignore' is not one of 'wrong', 'skip'"),
    (["zeroshot", "--dataset", "shapes", "--views", "0"], "greater than or equal to 1, got '0'"),
    ([*TOY_EXPORT, "--format", "tflite"], "'tflite' is not one of 'onnx', 'pt2', 'torchscript', 'open_clip', 'huggingface'"),
    ([*TOY_EXPORT, "--precision", "fp8"], "'fp8' is not one of 'fp32', 'fp16'"),
    ([*TOY_EXPORT, "--opset", "3"], "greater than or equal to 18, got '3'"),
    ([*TOY_EXPORT, "--answer"], "No such option: --answer"),
    (["data", "cache"], "Missing argument 'NAME|PATH'"),
    (["data", "list", "x"], "Got unexpected extra argument(s) (x)"),
    (["data", "chekc"], "No such command 'chekc'. Did you mean 'check'"),
    (["retrieve", "--index", "i", "--query", "x", "--top", "0"], "greater than or equal to 1, got '0'"),
    (["retrieve", "--index", "i", "--query", "x", "--per-video", "-1"], "greater than or equal to 0, got '-1'"),
    (["retrieve", "--index", "i", "--query", "x", "--window", "-1"], "'--window'"),
    (["interpolate"], "Missing argument"),
    (["interpolate", "a", "b", "--alpha", "half"], "got 'half'"),
    (["interpolate", "a", "b", "--soup", "gready"], "'gready' is not one of 'uniform', 'greedy'"),
    (["report"], "Missing argument 'RUN...'"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "message"), USAGE, ids=[" ".join(args) for args, _ in USAGE])
def test_commands_that_are_none_say_where_their_help_is(args, message):
    result = CliRunner().invoke(app, args, prog_name="vactk")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_the_table_of_mistakes_is_long():
    assert len(CASES) + len(USAGE) >= 100


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
    assert "--pretrained FILE; --backbone toy is here, but for drawn shapes only" in result.stderr


def test_every_wrong_setting_is_named_at_once():
    args = ["train", "--dataset", "shapes", "optim.rl=1", "run.epochs=x", "data.transfrom.flip=1"]
    result = CliRunner().invoke(app, args, prog_name="vactk")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 3
    assert all(line.startswith("Error: ") for line in result.stderr.splitlines())
