"""Readers of annotation files as distributed; no video file is looked for here."""
