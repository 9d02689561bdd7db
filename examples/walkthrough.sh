#!/usr/bin/env bash
# A walk through vactk on the embedded benchmark: a few minutes on two cores, no download.
set -euo pipefail
output="${1:-runs/walkthrough}"

# The frozen toy CLIP knows appearance, not motion.
vactk zeroshot --dataset shapes --split unseen

# Adapters learn motion from the seen classes; the table shows what carries over to the unseen ones.
vactk train --dataset shapes --output "$output" --resume

# Get the same numbers from the checkpoint, as JSON.
vactk zeroshot --dataset shapes --split unseen --checkpoint "$output" --json

# Classify files by any labels: here, the videos that were just drawn.
clips=$(python -c "from vactk.data.shapes import load_shapes; print(load_shapes('seen').records[0].video.parent)")
vactk zeroshot "$clips"/fish_moving_left_000.mp4 "$clips"/fish_moving_right_000.mp4 \
  --labels "fish moving left,fish moving right,heart moving left" --checkpoint "$output" \
  --templates object

# Change settings with key=value: another temporal module, more frames.
vactk train --dataset shapes --output "$output-st" --resume --frames 12 --epochs 2 model.temporal=st_adapter
