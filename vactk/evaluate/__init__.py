"""Metrics, zero-shot evaluation and prediction."""
