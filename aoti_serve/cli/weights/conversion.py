"""`aoti-serve convert`: of a pickle that is trusted a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aoti_serve.cli.answers import safe
from aoti_serve.cli.console import AsJson, bytes_text, out, phases, print_json, reports_errors
from aoti_serve.errors import quantity

SHOWN = 5


@reports_errors
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A file of torch.save's, an index of several, or the folder of either.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The safetensors file to write.")],
    key: Annotated[str | None, typer.Option(help="Where the state dict lies, if there are several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the tensors of a pickle as safetensors. Nothing of it is run (torch.load's weights_only)."""
    with phases() as phase:
        phase(f"reading {safe(str(source))}")
        from aoti_serve.model.foreign.pickled import convert_pickle  # torch: only when it is needed

        done = convert_pickle(source, target, key)
    if as_json:
        print_json({"out": str(target), **done._asdict()})
        return
    out.print(f"{safe(str(target))}: {quantity(done.tensors, 'tensors')}, {bytes_text(done.nbytes)}")
    if done.left_out:
        more = f" and {len(done.left_out) - SHOWN} more" if len(done.left_out) > SHOWN else ""
        out.print(f"left out, as no tensors: {safe(', '.join(done.left_out[:SHOWN]))}{more}")
