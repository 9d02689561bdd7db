"""Preparing, checking and converting datasets on disk."""
