"""Content hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vactk.errors import VactkError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises VactkError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        reason = f"there is no file '{path}'" if not path.exists() else f"'{path}' cannot be read: {error}"
        raise VactkError(reason) from error
    return digest.hexdigest()
