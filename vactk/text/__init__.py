"""Text for CLIP: templates, and class names as words."""
