"""The Typer app: registers the commands and turns errors into exit codes."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

import vactk
from vactk.child_processes import end_with_launcher
from vactk.cli import processes
from vactk.cli.data import data_app
from vactk.cli.export import export
from vactk.cli.interpolate import interpolate
from vactk.cli.report import report
from vactk.cli.retrieve import retrieve
from vactk.cli.train import finetune, train
from vactk.cli.zeroshot import zeroshot
from vactk.errors import VactkError

USAGE = 2
OUT_OF_MEMORY_SIGNS = ("can't allocate memory", "out of memory")
OUT_OF_MEMORY = "out of memory: fewer --frames, --views or --workers, or a smaller --batch-size, use less"
UsageError = cast(Any, typer.BadParameter).__mro__[1]  # click's, or Typer's own copy of it


class VactkGroup(TyperGroup):
    """Turns errors into exit codes: 1 for a user's error, 2 for usage (by click), 130 when interrupted."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Keep the whole command line for --processes."""
        processes.command_line.set(processes.CommandLine(main, tuple(args)))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. VACTK_DEBUG=1 shows tracebacks."""
        try:
            return super().invoke(ctx)
        except VactkError as error:
            if os.environ.get("VACTK_DEBUG"):
                raise
            processes.report(error)
            raise typer.Exit(processes.FAILED) from None
        except OSError as error:  # of a file without a better message of its own
            if os.environ.get("VACTK_DEBUG") or error.filename is None:
                raise
            processes.report(VactkError(f"'{error.filename}': {error.strerror}"))
            raise typer.Exit(processes.FAILED) from None
        except (MemoryError, RuntimeError) as error:
            if os.environ.get("VACTK_DEBUG") or not _is_out_of_memory(error):
                raise
            processes.report(VactkError(OUT_OF_MEMORY))
            raise typer.Exit(processes.FAILED) from None
        except UsageError as error:
            message = _describe_usage(error, processes.command_line.get().arguments)
            if not message:  # help, for a group without a command
                raise
            processes.report(VactkError(message))
            raise typer.Exit(USAGE) from None
        except KeyboardInterrupt as interrupt:
            processes.report_interrupt(interrupt)
            raise typer.Exit(processes.INTERRUPTED) from None


app = typer.Typer(
    cls=VactkGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` are those of this process by default."""
    end_with_launcher()
    app(arguments, prog_name="vactk")


def _describe_usage(error: Any, arguments: Sequence[str]) -> str:
    """Return a usage error as one line, with the value that was given and where help is; empty if it is help."""
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    if "\n" in message or not message:
        return ""
    for name in getattr(getattr(error, "param", None), "opts", ()):
        given = [two for one, two in pairwise(arguments) if one == name]
        given += [one.removeprefix(f"{name}=") for one in arguments if one.startswith(f"{name}=")]
        if given and f"'{given[-1]}'" not in message:
            message += f", got '{given[-1]}'"
    return f"{message}; see `{error.ctx.command_path if error.ctx else 'vactk'} --help`"


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"vactk {vactk.__version__}")
        raise typer.Exit


@app.callback()
def vactk_app(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn an image CLIP into a strong video model, and keep it open-vocabulary."""
    logging.getLogger("libav").addHandler(logging.NullHandler())  # vactk reports damaged files itself
    logging.getLogger("libav").propagate = False


app.command("train", rich_help_panel="Train")(train)
app.command("finetune", rich_help_panel="Train")(finetune)
app.command(rich_help_panel="Use")(zeroshot)
app.command(rich_help_panel="Use")(report)
app.add_typer(data_app, name="data", rich_help_panel="Use")
app.command(rich_help_panel="Train")(interpolate)
app.command(rich_help_panel="Use")(retrieve)
app.command(rich_help_panel="Use")(export)
