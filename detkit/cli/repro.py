"""`detkit repro`: does a run come out the same again?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detkit.cli import options, terminal
from detkit.cli.train import need_torch
from detkit.errors import RunError, UsageError


def repro(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps to do again.")] = 20,
    as_json: options.Json = False,
) -> None:
    """Do the first steps of a training run again and say whether they are the same to the last bit.

    Compares what the network was fed, the loss and the gradient of every step with what the run noted. The exit code
    is 6 where they differ; then the first difference is named, and what changed on the machine since. Nothing in the
    run's folder is touched.

    Example:  detkit repro runs/street --steps 50
    """
    need_torch()
    from detkit.train.distributed import join_team
    from detkit.train.repro import changed_environment, repeat

    if not run.is_dir():
        raise UsageError("no such run folder", file=run)
    with join_team() as team:
        reports = list(terminal.progress(repeat(run, steps, team), total=steps, title="repeating"))
        changed = changed_environment(run, team)
    if not team.leads:
        return
    last = reports[-1]
    if as_json:
        same = last.part is None
        found = None if same else {"part": last.part, "found": last.found, "expected": last.expected}
        terminal.print_json(
            {"run": str(run), "steps": last.step, "identical": same, "first": found, "changed": changed}
        )
    if last.part is not None:
        why = "; ".join(f"{name} was {then}, is {now}" for name, (then, now) in changed.items())
        raise RunError(
            f"step {last.step} of {run} came out otherwise: {last.part} differs" + (f" ({why})" if why else ""),
            found=last.found,
            expected=last.expected,
        )
    if not as_json:
        terminal.say(f"identical: {terminal.count(last.step, 'step')} of {run} came out the same to the last bit")
