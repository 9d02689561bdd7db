"""Building and searching an index of video embeddings."""
