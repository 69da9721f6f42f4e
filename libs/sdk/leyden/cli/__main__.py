"""Entry point: every command, and errors as one plain sentence with exit status 1."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from leyden.cli import feedback, models, replay, stack, submit, topics
from leyden.cli.console import Failed, errors, output

app = typer.Typer(
    name="leyden",
    help="Turns the traffic of LLM agents into better agents.\n\n"
    "Start with **leyden demo**: it starts everything on this machine, trains the calculator agent and "
    "shows how much better it got. **leyden up** starts the same services and leaves them running.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
stack.register(app)
submit.register(app)
replay.register(app)
feedback.register(app)
app.add_typer(topics.app, name="topics")
app.add_typer(models.app, name="models")


def _version(asked: bool) -> None:
    if asked:
        output.print(version("leyden"), highlight=False)
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """What all commands share."""


def main() -> None:
    """Run the command line."""
    try:
        app()
    except Failed as error:
        errors.print(f"[red]leyden:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
