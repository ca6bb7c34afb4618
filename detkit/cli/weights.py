"""`detkit weights`: the models that have names; one sub-command per line below."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli import options, paragraphs, terminal
from detkit.errors import WeightsError

if TYPE_CHECKING:
    from detkit.manifest import ModelFile

_MB = 1_000_000

Name = Annotated[str, typer.Argument(metavar="NAME", help="One of detkit weights list.", show_default=False)]
NameOrFile = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="One of detkit weights list, or a model file.", show_default=False)
]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Only these (default: all that are here).")]

app = typer.Typer(add_completion=False, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def weights() -> None:
    """Say which models there are and what their cards tell; check their files, and fetch published ones.

    Try it:  detkit weights list
    """


def list_(as_json: options.Json = False) -> None:
    """List the models that have names: what --weights takes, how good they are, and their licence.

    "here" says where the files are: with detkit, pulled (in your own folder), or not pulled; nothing is ever downloaded
    but by detkit weights pull. What each model finds, and in detail: detkit weights info NAME.
    """
    from detkit.manifest import read_manifest

    default, models = read_manifest()
    entries = [_entry(model, default) for model in models]
    if as_json:
        terminal.print_json({"weights": entries})
        return
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_name.setdefault(entry["name"], []).append(entry)
    headers = ("name", "files", "MB", "task", "px", "classes", "accuracy", "licence", "here")
    terminal.print_table(headers, [_row(own) for own in by_name.values()], right=("MB", "px", "classes"))
    terminal.say(f"the default model is {default}")


def info(name: NameOrFile, as_json: options.Json = False) -> None:
    """Show a model's card: what it finds, how it looks at a photo, what it learnt from, how good it is, its licences.

    A file that has a name is verified against its sha256 first.
    """
    from detkit.cli.weights_card import document, rows

    found = document(name)
    if as_json:
        terminal.print_json(found)
    else:
        terminal.print_table(("card", "value"), rows(found))


def verify(names: Names = None, as_json: options.Json = False) -> None:
    """Compare the files that are here with the sha256 the list of models has for them; exit 4 when one differs.

    Of a file that was published with the first digits of its sha256 only, these are compared.
    """
    from detkit.manifest import models_named, read_manifest

    models = [m for name in names for m in models_named(name)] if names else list(read_manifest()[1])
    chosen = [model for model in models if names or model.path is not None or not model.url]
    results = [_verified(model) for model in terminal.progress(chosen, total=len(chosen), title="verifying")]
    if as_json:
        terminal.print_json({"weights": results})
    else:
        cells = [(r["name"], r["file"], f"{r['sha256'][:12]}", str(r["digits"]), r["problem"] or "ok") for r in results]
        terminal.print_table(("name", "file", "sha256", "digits", "result"), cells, right=("digits",))
    wrong = [result for result in results if result["problem"]]
    if len(wrong) == 1:
        raise WeightsError(wrong[0]["said"])
    if wrong:
        raise WeightsError(f"{len(wrong)} of {len(results)} files are not what the list of models says")


def pull(name: Name, as_json: options.Json = False) -> None:
    """Fetch a published model from the address in the list of models, and keep it in your own folder.

    A download that breaks off goes on where it was when the command is given again. The file gets its name only once
    its sha256 is right; otherwise nothing of it stays, and the exit code is 4.

    Try it:  detkit weights pull ssdlite320_mobilenet_v3_large
    """
    from detkit.manifest import models_named

    models = models_named(name)
    documents = [_pulled(model) for model in models if model.url]
    if not documents:
        terminal.say(f"{name} comes with detkit; there is nothing to fetch")
        documents = [{"name": m.name, "file": str(m.verified()), "sha256": m.sha256, "pulled": False} for m in models]
    if as_json:
        terminal.print_json({"weights": documents})
    else:
        for document in documents:
            print(document["file"])


def _entry(model: ModelFile, default: str) -> dict[str, Any]:
    """What is known of a model file without reading all of it."""
    from detkit.model_header import SUFFIXES
    from detkit.weights import read_card

    path, card, problem = model.path, None, None
    if path is not None and path.suffix in SUFFIXES:
        try:
            card = read_card(path)
        except WeightsError as error:
            problem = str(error)
    return {
        "name": model.name,
        "default": model.name == default,
        "file": model.file,
        "path": None if path is None else str(path),
        "bytes": path.stat().st_size if path is not None else model.max_bytes or None,
        "task": model.task if card is None else card.task,
        "input_hw": None if card is None else list(card.input_hw),
        "classes": list(model.classes),
        "accuracy": model.accuracy,
        "licence": model.licence,
        "url": model.url or None,
        "sha256": model.sha256,
        "problem": problem or ("missing" if path is None and not model.url else None),
    }


def _row(own: list[dict[str, Any]]) -> list[str]:
    """A model with all of its files."""
    first = own[0]
    problem = next((entry["problem"] for entry in own if entry["problem"]), None)
    here = "not pulled" if first["path"] is None else "pulled" if first["url"] else "with detkit"
    return [
        first["name"],
        " ".join(entry["file"].rpartition(".")[2] for entry in own),
        f"{first['bytes'] / _MB:.1f}" if first["bytes"] else "-",
        first["task"] or "-",
        "x".join(str(side) for side in reversed(first["input_hw"])) if first["input_hw"] else "-",
        str(len(first["classes"])),
        _accuracy(first["accuracy"]),
        first["licence"].partition(";")[0],
        here if problem is None else "missing" if problem == "missing" else "damaged",
    ]


def _accuracy(figures: dict[str, Any]) -> str:
    numbers = [f"{name} {value:.3f}" for name, value in figures.items() if isinstance(value, float)]
    return f"{' '.join(numbers)} ({figures['split']})" if "split" in figures else " ".join(numbers)


def _verified(model: ModelFile) -> dict[str, Any]:
    """The outcome for one file; `problem` is None where it is as it should be."""
    problem = said = None
    try:
        model.verified()
    except WeightsError as error:
        problem, said = error.message.partition(";")[0], str(error)
        if model.path is None and model.url:
            problem = "not here yet"
    return {
        "name": model.name,
        "file": str(model.path or model.file),
        "sha256": model.sha256,
        "digits": len(model.sha256),
        "problem": problem,
        "said": said,
    }


def _pulled(model: ModelFile) -> dict[str, Any]:
    """Fetch one file, unless it is here already."""
    from detkit.download import download
    from detkit.files import sha256_of
    from detkit.manifest import user_folder

    pulled = model.path is None
    target = user_folder() / model.file if model.path is None else model.path
    if not pulled:
        try:
            model.verified()
        except WeightsError as error:
            if target.parent != user_folder():
                raise
            terminal.warn(f"{error.message.partition(';')[0]}: {target}; fetching it again")
            pulled = True
    if pulled:
        terminal.say(f"{model.url} ({model.max_bytes / _MB:.1f} MB; licence: {model.licence})")
        kept = terminal.show_download(download(model.url, target, sha256=model.sha256, max_bytes=model.max_bytes))
        if kept:
            terminal.say(f"went on from {kept / _MB:.1f} MB that were here")
    digits = "" if len(model.sha256) == 64 else f"; its first {len(model.sha256)} digits are as published"
    digest = sha256_of(target)
    terminal.say(f"sha256 {digest}{digits}" if pulled else f"{target} is here already, and whole")
    return {"name": model.name, "file": str(target), "sha256": digest, "pulled": pulled}


def _helped(commands: Iterable[Any]) -> None:
    for command in commands:
        command.help = paragraphs(inspect.getdoc(command.callback) or "")


app.command("list")(list_)
app.command("info")(info)
app.command("verify")(verify)
app.command("pull")(pull)
_helped(app.registered_commands)
