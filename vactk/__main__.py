"""The entry point: `vactk`, `python -m vactk`, and under `accelerate launch -m vactk`."""

from vactk.cli.app import main

if __name__ == "__main__":
    main()
