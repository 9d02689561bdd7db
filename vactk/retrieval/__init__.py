"""An index of videos that is searched by text or by a video, and what is shown of its hits."""
