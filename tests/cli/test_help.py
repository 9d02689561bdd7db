"""What the help of every command says of its options, and lists of what there is to choose from."""

from __future__ import annotations

import json

import click
import pytest
import typer
from typer.testing import CliRunner

from vactk.cli.app import app
from vactk.recipes import read_recipe


def commands():
    """All commands with their whole names."""
    stack = [("vactk", typer.main.get_command(app))]
    while stack:
        name, command = stack.pop()
        if hasattr(command, "commands"):
            stack += [(f"{name} {key}", sub) for key, sub in command.commands.items()]
        else:
            yield name, command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_happens_without_it(name):
    context = click.Context(COMMANDS[name], info_name=name)
    for option in COMMANDS[name].params:
        if option.param_type_name != "option" or option.name == "help":
            continue
        record = option.get_help_record(context)
        assert record is not None, option.name
        shown = f"{record[1]} {option.help}"
        is_flag = bool(option.is_flag)
        assert is_flag or "default" in shown or "required" in shown, (name, option.name)


def test_recipes_are_listed_with_what_they_are_for():
    shown = CliRunner().invoke(app, ["train", "--recipe", "list"])
    assert shown.exit_code == 0
    listed = json.loads(CliRunner().invoke(app, ["train", "--recipe", "list", "--json"]).stdout)["recipes"]
    assert {"own-videos", "own-videos-finetune", "m2clip-k400", "openvclip-k400"} <= {
        item["recipe"] for item in listed
    }
    for item in listed:
        assert item["recipe"] in shown.stdout
        assert len(item["purpose"].split()) >= 3
        assert item["dataset"] == read_recipe(item["recipe"]).get("dataset", "any")
