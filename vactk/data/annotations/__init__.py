"""Annotation files, as distributed, as entries: what they say of each video, before any file is looked for."""
