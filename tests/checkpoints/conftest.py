from __future__ import annotations

from tests.models.conftest import tiny_clip

__all__ = ["tiny_clip"]
