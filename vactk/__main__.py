"""The entry point: `vactk`, `python -m vactk`, and under `accelerate launch -m vactk`."""

from vactk.child_processes import end_with_launcher
from vactk.cli.app import app


def main() -> None:
    """Run the command line."""
    end_with_launcher()
    app(prog_name="vactk")


if __name__ == "__main__":
    main()
