"""`detkit explain`: why a model found what it found, as a table and a picture; one sub-command per line below."""

from __future__ import annotations

import inspect

import typer

from detkit.cli import paragraphs
from detkit.cli.explain_grid import grid
from detkit.cli.explain_ladder import ladder

app = typer.Typer(add_completion=False, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def explain() -> None:
    """Show why a model found what it found.

    Try it:  detkit explain grid photo.jpg
    """


app.command("grid")(grid)
app.command("ladder")(ladder)
for _command in app.registered_commands:
    _command.help = paragraphs(inspect.getdoc(_command.callback) or "")
