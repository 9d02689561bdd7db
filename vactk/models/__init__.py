"""The model: an image CLIP, the modules that make it see motion, heads and losses."""
