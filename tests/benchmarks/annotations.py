"""What vactk finds in every annotation set of a data folder, against its expected.json.

python -m tests.benchmarks.annotations [--data DIR]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.data.annotation_formats import read_annotations
from tests.data.annotations.test_real import NAMES, NOT_READ, counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    differing = 0
    for item in json.loads((options.data / "expected.json").read_text())["annotations"]:
        if item["format"] in NOT_READ:
            continue
        found = counts(read_annotations(options.data / item["path"], NAMES[item["format"]]), item["expect"])
        same = found == item["expect"]
        differing += not same
        print("as expected" if same else f"EXPECTED {item['expect']}", item["name"], json.dumps(found))
    print(f"{differing} sets differ")


if __name__ == "__main__":
    main()
