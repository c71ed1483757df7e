"""A dataclass of options is, on the command line, its options one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from flantune.cli.options import with_groups_spread


@dataclass(frozen=True, kw_only=True)
class Weather:
    rain: Annotated[int, typer.Option("--rain", "-r", min=0, help="Millimetres.")] = 3
    windy: Annotated[bool, typer.Option("--windy", help="More than a breeze.")] = False


def told(
    place: Annotated[str, typer.Argument()],
    early: Annotated[int, typer.Option("--early")] = 1,
    *,
    weather: Weather,
    late: Annotated[int, typer.Option("--late")] = 2,
) -> None:
    """How the day was."""
    typer.echo(f"{place} {early} {weather} {late}")


app = typer.Typer(rich_markup_mode=None)
app.command()(with_groups_spread(told))


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def test_the_group_comes_whole_with_what_was_given_and_the_defaults_of_the_rest():
    assert run("here") == f"here 1 {Weather()} 2\n"
    assert run("here", "-r", "7", "--late", "5", "--windy") == f"here 1 {Weather(rain=7, windy=True)} 5\n"
    run("here", "--rain", "-1", code=2)


def test_the_help_shows_the_options_where_the_group_stands():
    text = run("--help")
    assert "How the day was." in text and "Millimetres." in text
    assert re.findall(r"--(early|rain|windy|late)\b", text) == ["early", "rain", "windy", "late"]
