"""The `detkit` command: a table of commands, each imported when it runs, and the one place errors become exit codes.

To add a command: write `detkit/cli/NAME.py` with one function whose parameters carry `typer.Option`/`typer.Argument`
annotations (shared ones are in `cli/options.py`) and whose docstring is the long help, then add a line to `COMMANDS`.
The attribute named there may also be a `typer.Typer`, for a command with sub-commands. The function calls the library,
prints data with `terminal.print_table` or `terminal.print_json` and talk with `terminal.say`, raises `DetkitError` for
what the user can mend, and `typer.Exit(code)` for a result that is not success. It never calls `sys.exit`.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from detkit.cli import terminal
from detkit.errors import DetkitError, ExitCode

COMMANDS = {  # name -> ("module:attribute" under detkit.cli, the line `detkit --help` shows)
    "detect": ("detect:detect", "Find objects in photos, videos and streams: pictures, label files, JSON."),
    "train": ("train:train", "Turn a labelled data set into a model."),
    "eval": ("eval:eval_", "Say how good a model is on labelled photos, in COCO's numbers."),
    "compare": ("compare:compare_", "Say which of two models is better on the same photos, and how sure that is."),
    "gate": ("gate:gate_", "Say in CI whether a new model may replace the old one: exit 0, 7 or 8."),
    "export": ("export:export", "Write a model for other programs: ONNX, OpenVINO, TorchScript; proven equal."),
    "repro": ("repro:repro", "Do the first steps of a training run again and compare them to the last bit."),
    "runs": ("runs:runs", "List training runs: how far they came, how good they are."),
    "data": ("data:app", "Check, mend, convert, split and describe labelled photos."),
    "explain": ("explain:app", "Show why a model found what it found: cells and anchors, or sliding windows."),
    "import": ("import_:app", "Turn other programs' models into detkit's: Darknet's, torchvision's."),
    "weights": ("weights:app", "List the models that have names, show a model's card, verify and fetch files."),
}
_CLOSED_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


class _Commands(TyperGroup):
    """The commands of `COMMANDS`: known by their one-line help, imported when called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=short) for name, (_, short) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replace the chosen command's one-line stand-in by the real one."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _load(name), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a reader that left and Ctrl-C end it quietly."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains when it flushes at the end
            raise typer.Exit(_CLOSED_PIPE) from None
        except KeyboardInterrupt:
            terminal.say("\ndetkit: interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from None

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Run the command line and leave with its exit code: the only place that exits."""
        try:
            code = super().main(*args, **settings | {"standalone_mode": False})
        except typer.TyperException as error:
            code = _usage_problem(error)
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to print fits no more
            terminal.say("detkit: error: stdout: cannot be written; found No space left on device")
            code = ExitCode.RUN
        except DetkitError as error:
            terminal.say(f"detkit: error: {terminal.one_line(str(error))}")
            code = error.exit_code
        sys.exit(int(code or 0))


def _load(name: str) -> Any:
    """The real command: `detkit.cli.MODULE`'s attribute, as typer's command object."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(f"detkit.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command(name, help=paragraphs(inspect.getdoc(function) or ""))(function)
    command = get_command(found)
    command.name, command.help = name, _plain(command.help)
    for parameter in command.params:
        if isinstance(parameter, TyperOption | TyperArgument):
            parameter.help = _plain(parameter.help)
    return command


def _plain(text: str | None) -> str | None:
    """Help as written: rich would take [default: 3] for markup and show nothing."""
    return text and text.replace("[", "\\[")


def paragraphs(docstring: str) -> str:
    """The text with each paragraph on one line, for typer to wrap at the terminal's width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


def _usage_problem(error: typer.TyperException) -> int:
    """Say in one line what is wrong with the command line."""
    context = getattr(error, "ctx", None)
    command = "detkit" if context is None else context.command_path
    problem = terminal.one_line(error.format_message()).rstrip(".") or "a command is missing"  # its help was shown
    terminal.say(f"detkit: error: {problem}; see {command} --help")
    return int(ExitCode.USAGE)


def _show_version(wanted: bool) -> None:
    if wanted:
        from detkit import __version__

        print(f"detkit {__version__}")
        raise typer.Exit()


app = typer.Typer(
    name="detkit", cls=_Commands, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.callback(invoke_without_command=True)
def _detkit(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Train, run and prove object detectors.

    Try it:  detkit detect photo.jpg
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> NoReturn:
    """Entry point of the `detkit` command and of `python -m detkit`."""
    get_command(app).main(prog_name="detkit")
    raise AssertionError("main() always exits")
