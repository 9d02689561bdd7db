"""Folders to look for datasets in: --data-root, environment variables, the user's configuration file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vactk.config import read_yaml
from vactk.errors import VactkError, unknown
from vactk.files.paths import config_path

CONFIG_KEYS = ("data", "datasets")


class DataLocation(NamedTuple):
    """A folder that may hold a dataset, and the setting that names it."""

    folder: Path
    set_by: str


def data_locations(
    dataset: str, folder_names: Sequence[str], data_root: Path | None = None
) -> list[DataLocation]:
    """Return the folders to look for a dataset in, the most specific setting first; they need not exist.

    Within each folder, existing subfolders with one of the dataset's `folder_names` come first, then the folder
    itself. With `data_root`, only there. Raises VactkError for unknown keys in the configuration file.
    """
    if data_root is not None:
        return _inside(DataLocation(data_root, "--data-root"), folder_names)
    found = []
    own = f"VACTK_DATA_{dataset.upper()}"
    if os.environ.get(own):
        found += _inside(DataLocation(Path(os.environ[own]).expanduser(), own), folder_names)
    if os.environ.get("VACTK_DATA"):
        found += _inside(
            DataLocation(Path(os.environ["VACTK_DATA"]).expanduser(), "VACTK_DATA"), folder_names
        )
    return found + _configured(dataset, folder_names)


def _inside(location: DataLocation, folder_names: Sequence[str]) -> list[DataLocation]:
    children = [DataLocation(location.folder / name, location.set_by) for name in folder_names]
    return [*(child for child in children if child.folder.is_dir()), location]


def _configured(dataset: str, folder_names: Sequence[str]) -> list[DataLocation]:
    path = config_path()
    if not path.is_file():
        return []
    values = read_yaml(path)
    for key in values:
        if key not in CONFIG_KEYS:
            raise VactkError(f"'{path}': {unknown(str(key), CONFIG_KEYS, 'setting')}")
    datasets = values.get("datasets") or {}
    if not isinstance(datasets, dict):
        raise VactkError(f"'{path}': datasets must be `name: folder` lines")
    found = []
    for key, folder in ((f"datasets.{dataset}", datasets.get(dataset)), ("data", values.get("data"))):
        if folder:
            found += _inside(DataLocation(Path(str(folder)).expanduser(), f"{key} in {path}"), folder_names)
    return found
