"""The entry point: `vactk`, `python -m vactk`, and under `accelerate launch -m vactk`."""

from vactk.cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="vactk")


if __name__ == "__main__":
    main()
