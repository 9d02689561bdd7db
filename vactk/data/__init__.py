"""Datasets as records, and records as tensors."""
