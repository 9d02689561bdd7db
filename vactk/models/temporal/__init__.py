"""Temporal modules inside the residual blocks of the vision tower."""
