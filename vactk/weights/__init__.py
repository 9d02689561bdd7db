"""Weights on disk: safetensors with metadata, and other projects' files read without running their code."""
