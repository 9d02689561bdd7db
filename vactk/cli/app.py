"""The Typer app: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import vactk
from vactk.cli import processes
from vactk.cli.data import data_app
from vactk.cli.export import export
from vactk.cli.interpolate import interpolate
from vactk.cli.retrieve import retrieve
from vactk.cli.train import finetune, train
from vactk.cli.zeroshot import zeroshot
from vactk.errors import VactkError


class VactkGroup(TyperGroup):
    """Turns errors into exit codes: 1 a user's error, 2 usage (click's own), 130 interrupted."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Keep the whole command line, for processes that are started with the same one."""
        processes.command_line.set(tuple(args))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. VACTK_DEBUG=1 lets tracebacks through."""
        try:
            return super().invoke(ctx)
        except VactkError as error:
            if os.environ.get("VACTK_DEBUG"):
                raise
            processes.report(error)
            raise typer.Exit(processes.FAILED) from None
        except (
            OSError
        ) as error:  # of a file that the command reads or writes: elsewhere it has a better message
            if os.environ.get("VACTK_DEBUG") or error.filename is None:
                raise
            processes.report(VactkError(f"'{error.filename}': {error.strerror}"))
            raise typer.Exit(processes.FAILED) from None
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


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vactk {vactk.__version__}")
        raise typer.Exit


@app.callback()
def vactk_app(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn an image CLIP into a strong video model, and keep it open-vocabulary."""
    logging.getLogger("libav").addHandler(logging.NullHandler())  # damaged files are reported, once, by us
    logging.getLogger("libav").propagate = False


app.command("train", rich_help_panel="Train")(train)
app.command("finetune", rich_help_panel="Train")(finetune)
app.command(rich_help_panel="Use")(zeroshot)
app.add_typer(data_app, name="data", rich_help_panel="Use")
app.command(rich_help_panel="Train")(interpolate)
app.command(rich_help_panel="Use")(retrieve)
app.command(rich_help_panel="Use")(export)
