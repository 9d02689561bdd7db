"""vactk, the Video-Action CLIP ToolKit."""

__version__ = "0.1.0"
