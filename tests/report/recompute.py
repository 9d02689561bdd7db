"""The numbers of a report, slowly and by other code: from predictions.csv and metrics.jsonl alone."""

from __future__ import annotations

import csv
import json
import math


def interval(right, total):
    """Wilson's limits, in %: the roots of (share - p)^2 = z^2 p (1 - p) / total."""
    z2 = 1.959963984540054**2
    share = right / total
    a, b, c = 1 + z2 / total, -(2 * share + z2 / total), share**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return 100 * share, 100 * (-b - root) / (2 * a), 100 * (-b + root) / (2 * a)


def recompute(folder):
    """{(split, by): numbers} and {split: confusions} of a folder."""
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for split, by in dict.fromkeys((row["split"], row["by"]) for row in rows):
        own = [row for row in rows if row["split"] == split and row["by"] == by]
        ranks = [int(row["rank"]) if row["rank"] else 10**9 for row in own]
        classes = {}
        for row, rank in zip(own, ranks, strict=True):
            right, total = classes.get(row["label"], (0, 0))
            classes[row["label"]] = (right + (rank == 1), total + 1)
        each = [interval(*counts) for counts in classes.values()]
        mean = sum(one[0] for one in each) / len(each)
        below = math.sqrt(sum((one[0] - one[1]) ** 2 for one in each)) / len(each)
        above = math.sqrt(sum((one[2] - one[0]) ** 2 for one in each)) / len(each)
        confused = {}
        for row in own:
            if row["answer"] not in ("", row["label"]):
                pair = row["label"], row["answer"]
                confused[pair] = confused.get(pair, 0) + 1
        found[split, by] = {
            "top1": interval(sum(rank == 1 for rank in ranks), len(own)),
            "top5": interval(sum(rank <= 5 for rank in ranks), len(own)),
            "mean_class": (mean, max(0, mean - below), min(100, mean + above)),
            "num_videos": len(own),
            "num_unread": sum(row["answer"] == "" for row in own),
            "chance": 100 / int(own[0]["num_classes"]),
            "calibration_error": calibration_error(own),
            "classes": classes,
            "confused": confused,
        }
    return found


def calibration_error(rows):
    """In %, over the videos that were read; None without one."""
    read = [(float(row["probability_1"]), row["rank"] == "1") for row in rows if row["answer"]]
    error = 0.0
    for k in range(10):
        own = [(p, right) for p, right in read if (k / 10 < p <= (k + 1) / 10) or (k == 0 and p == 0)]
        error += abs(sum(p for p, _ in own) - sum(right for _, right in own))
    return 100 * error / len(read) if read else None


def curves(folder):
    """The loss of each step, and top-1 of each evaluation."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [[line["step"], line["loss"]] for line in lines if "loss" in line]
    tops = [[line["step"], found["top1"]] for line in lines for found in line.get("evaluation", {}).values()]
    return losses, tops
