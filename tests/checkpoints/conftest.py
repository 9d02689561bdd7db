"""The fixtures of models, for what reads and writes them."""

from tests.models.conftest import tiny_clip  # noqa: F401
