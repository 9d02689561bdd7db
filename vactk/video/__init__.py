"""Reading videos, sampling frames, and preprocessing them for the model."""

from vactk.video.container import VIDEO_SUFFIXES, VideoError, VideoWarning, is_video_name
from vactk.video.reader import DECODERS, Sample, Sampler, Timeline, Video, open_video, sample_video
from vactk.video.sampling import dense_views, uniform_segments

__all__ = [
    "DECODERS",
    "VIDEO_SUFFIXES",
    "Sample",
    "Sampler",
    "Timeline",
    "Video",
    "VideoError",
    "VideoWarning",
    "dense_views",
    "is_video_name",
    "open_video",
    "sample_video",
    "uniform_segments",
]
