"""Entry point of `vactk`, `python -m vactk` and `accelerate launch -m vactk`."""

from vactk.cli.app import main

if __name__ == "__main__":
    main()
