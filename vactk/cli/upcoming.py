"""Commands that are planned and not there yet: they say so and fail."""

from __future__ import annotations

from typing import NoReturn

import typer

import vactk
from vactk.cli import options
from vactk.errors import VactkError


def retrieve(ctx: typer.Context, json: options.Json = False) -> None:
    """Not available yet. Will search videos by text, and measure retrieval on MSR-VTT."""
    _refuse(ctx)


def _refuse(ctx: typer.Context) -> NoReturn:
    raise VactkError(f"'vactk {ctx.info_name}' is not available yet in vactk {vactk.__version__}")
