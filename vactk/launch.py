"""`accelerate launch`, also where PyPI's torchvision beside a CPU build of torch keeps that from starting.

python -m vactk.launch --config_file FILE -m vactk train ... takes what `accelerate launch` takes.
"""

from vactk import torchvision_ops  # noqa: F401 - before accelerate, which imports torchvision


def main() -> None:
    """Run the command line of `accelerate launch`."""
    from accelerate.commands.launch import main as launch

    launch()


if __name__ == "__main__":
    main()
