"""`vactk zeroshot VIDEOS`: classify files, as wholes or over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vactk.cli.display import (
    Display,
    common_folder,
    is_main_process,
    print_line,
    print_table,
    print_unreadable,
)
from vactk.errors import VactkError

if TYPE_CHECKING:
    from vactk.evaluate.predictor import Predictions, Predictor
    from vactk.evaluate.results import ClassifierName

TABLE_LABELS = 3  # of each video, unless --top says otherwise; --json and files have all
LONG_S = 60.0  # a video of which --window would say more
NONE = "none of these"


class VideoOptions(NamedTuple):
    """How files are classified, and where the answers go."""

    labels: tuple[str, ...] | None  # None: those of the checkpoint
    window_s: float | None
    stride_s: float | None
    multi_label: bool
    threshold: float | None
    top: int | None
    output: list[Path]

    def check(self, has_videos: bool, by: str) -> None:
        """Raise VactkError for options without what they go with."""
        over_time = {
            "--stride": self.stride_s is not None,
            "--multi-label": self.multi_label,
            "--threshold": self.threshold is not None,
        }
        of_videos = {"--window": self.window_s is not None, "--top": self.top is not None, **over_time}
        if len(self.output) > 1 and not has_videos:
            raise VactkError(f"--output takes one folder for a dataset or protocol, got {len(self.output)}")
        for name, given in of_videos.items():
            if given and not has_videos:
                raise VactkError(f"{name} is for the answers to videos: name files or folders")
            if given and name in over_time and self.window_s is None:
                raise VactkError(f"{name} is for answers over time: add --window SECONDS")
        if self.window_s is not None and by != "similarity":
            raise VactkError(f"--window answers by similarity: leave out --by {by}")
        if self.top is not None and self.window_s is not None:
            raise VactkError("--top is for videos as wholes: with --window the segments are the answer")


def classify(
    paths: list[Path],
    asked: VideoOptions,
    checkpoint: Path | None,
    overrides: dict[str, Any],
    by: ClassifierName,
    display: Display,
) -> dict[str, Any]:
    """Classify files and return the result under the keys that scripts rely on; write it to --output."""
    from vactk.evaluate.answer_files import check_output, write_predictions, write_timelines

    files = find_files(paths)
    for path in asked.output:
        check_output(path, len(files), over_time=asked.window_s is not None)

    from vactk.evaluate.predictor import Predictor, choose_windows
    from vactk.evaluate.setup import load_for_evaluation, strange_to_toy

    if asked.window_s is not None:
        choose_windows(asked.window_s, asked.stride_s)  # before the model is loaded
    model, config = load_for_evaluation(checkpoint, overrides, {}, display.message)
    display.warning(strange_to_toy(model, asked.labels or ()))
    predictor = Predictor(model, asked.labels, by=by, config=config)
    name = {"model": str(checkpoint or model.config.backbone.name)}
    if asked.window_s is None:
        predictions = predictor.predict(files, progress=display.progress("videos"))
        result = {**predictions.to_json(asked.top), **name}
        result["notes"] += _what_was_missed(predictor, predictions)
    else:
        found = predictor.segments(
            files,
            window=asked.window_s,
            stride=asked.stride_s,
            multi_label=asked.multi_label,
            threshold=asked.threshold,
            progress=display.progress("parts of videos"),
        )
        result = {**found.to_json(), **name}
    for path in asked.output if is_main_process() else ():
        if asked.window_s is None:
            write_predictions(path, result)
        else:
            write_timelines(path, result, found)
    return {**result, "output": [str(path) for path in asked.output]} if asked.output else result


def find_files(paths: list[Path]) -> list[Path]:
    """Return the files, and every file under the folders that is not hidden, once each, sorted per folder."""
    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise VactkError(f"there is no video or folder '{path}'")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                files[file] = None
    if not files:
        raise VactkError(f"there are no files in '{paths[0]}'")
    return list(files)


def _what_was_missed(predictor: Predictor, predictions: Predictions) -> list[str]:
    """Say of how long a video how few frames were seen."""
    durations = predictor.durations_s([one.video for one in predictions])
    long = {
        one.video: s for one, s in zip(predictions, durations, strict=True) if s is not None and s > LONG_S
    }
    if not long:
        return []
    data = predictor.config.data
    video, duration_s = max(long.items(), key=lambda item: item[1])
    others = f", and of {len(long) - 1:,} more videos above {LONG_S:.0f} s" if len(long) > 1 else ""
    seen = f"{data.num_frames * data.views} frames of {_span_in_words(duration_s)}"
    return [f"{seen} were seen of '{video.name}'{others}; --window 4 classifies it piece by piece"]


def _span_in_words(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minute{'s' * (minutes != 1)}" if minutes < 120 else f"{minutes / 60:.1f} hours"


def print_answers(result: dict[str, Any]) -> None:
    """Print a table of predictions, or of segments."""
    (_print_segments if "timelines" in result else _print_predictions)(result)
    print_unreadable(result)
    for note in result["notes"]:
        print_line(f"note: {note}")
    for path in result.get("output", ()):
        print_line(f"written: {path}")


def _print_predictions(result: dict[str, Any]) -> None:
    folder, names = common_folder(one["video"] for one in result["predictions"])
    rows = []
    for one in result["predictions"]:
        best = one["labels"][: result["top"] or TABLE_LABELS]
        cells = (f"{own['label']} {100 * own['probability']:.1f}% ({own['similarity']:.3f})" for own in best)
        rows.append([names[one["video"]], *cells])
    if rows:
        ranks = [f"{number}." for number in range(1, max(map(len, rows)))]
        where = f", videos in {folder}" if folder else ""
        print_table(f"Predicted labels: probability (cosine similarity){where}", ("video", *ranks), rows)


def _print_segments(result: dict[str, Any]) -> None:
    videos = [one["video"] for one in result["timelines"]]
    folder, names = common_folder(videos)
    rows = [
        [
            *([names[one["video"]]] if len(videos) > 1 else []),
            clock(segment["start_s"]),
            clock(segment["end_s"]),
            segment["label"] or NONE,
            f"{100 * segment['probability']:.1f}%",
            f"{segment['similarity']:.3f}",
        ]
        for one in result["timelines"]
        for segment in one["segments"]
    ]
    if not videos:
        return
    where = f", videos in {folder}" if folder else "" if len(videos) > 1 else f" of {videos[0]}"
    how = f"windows of {result['window_s']:g} s every {result['stride_s']:g} s"
    columns = (*(["video"] if len(videos) > 1 else []), "start", "end", "label", "probability", "similarity")
    print_table(f"Segments{where}\n{how}; {_level(result)}", columns, rows)


def _level(result: dict[str, Any]) -> str:
    if result["threshold"] is not None:
        return f"'{NONE}' below a similarity of {result['threshold']:g}"
    return f"'{NONE}' where one of {result['unrelated_phrases']} unrelated phrases fits better"


def clock(seconds: float) -> str:
    """Format a time as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
