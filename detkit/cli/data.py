"""`detkit data`: what is done with labelled photos before anything is trained; one sub-command per line below."""

from __future__ import annotations

import inspect

import typer

from detkit.cli import paragraphs
from detkit.cli.data_anchors import anchors
from detkit.cli.data_check import check
from detkit.cli.data_convert import convert
from detkit.cli.data_fix import fix
from detkit.cli.data_split import split
from detkit.cli.data_stats import stats

app = typer.Typer(add_completion=False, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def data() -> None:
    """Check, mend, convert, split and describe labelled photos.

    Try it:  detkit data check my-photos
    """


app.command("check")(check)
app.command("fix")(fix)
app.command("convert")(convert)
app.command("split")(split)
app.command("stats")(stats)
app.command("anchors")(anchors)
for _command in app.registered_commands:
    _command.help = paragraphs(inspect.getdoc(_command.callback) or "")
