#!/usr/bin/env bash
# A walk through vactk on the embedded benchmark: a few minutes on two cores, no download.
set -euo pipefail
output="${1:-runs/walkthrough}"

# The frozen toy CLIP knows what is seen, and not how it moves.
vactk zeroshot --dataset shapes --split unseen

# Adapters learn motion from the seen classes; the table shows what carries over to the unseen ones.
vactk train --dataset shapes --output "$output" --resume

# The same numbers again from the checkpoint, for machines.
vactk zeroshot --dataset shapes --split unseen --checkpoint "$output" --json

# Any labels on any files: here, the clips that were just made.
clips=$(python -c "from vactk.data.shapes import load_shapes; print(load_shapes('seen').records[0].video.parent)")
vactk zeroshot "$clips"/fish_moving_left_000.mp4 "$clips"/fish_moving_right_000.mp4 \
  --labels "fish moving left,fish moving right,heart moving left" --checkpoint "$output" \
  --templates object

# Settings by key=value: another temporal module, more frames.
vactk train --dataset shapes --output "$output-st" --resume --frames 12 --epochs 2 model.temporal=st_adapter
