"""The embedded dataset `shapes`: drawn objects in motion, as real video files."""

from vactk.data.shapes.clips import load_shapes

__all__ = ["load_shapes"]
