"""`fthnet eye`: say whose eye comes next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fthnet_kit.edge.cli.config import config_option, current_config


@click.command()
@config_option
@click.option("--eye-file", type=click.Path(path_type=Path), help="File that `fthnet run --eye-file` watches.")
@click.option("--laterality", type=click.Choice(["R", "L", "B"]), help="Right, left or both eyes.")
@click.option("--patient-id", help="Identifier of the patient.")
@click.option("--patient-name", help="Family^Given.")
@click.option("--birth-date", help="Date of birth as YYYYMMDD.")
@click.option("--sex", type=click.Choice(["M", "F", "O"]), help="M, F or O.")
@click.option("--accession-number", help="Number of the order.")
@click.option("--study-id", help="Number of the study.")
@click.option("--study-instance-uid", help="UID of the study, from the worklist.")
@click.option("--referring-physician", help="Family^Given.")
@click.option("--pupil-dilated/--pupil-not-dilated", default=None, help="Whether drops were given.")
@click.option("--json", "as_json", is_flag=True, help="Read all of it as JSON from stdin (eye_context.schema.json).")
@click.option("--end", is_flag=True, help="Nobody's: what comes next is unknown.")
def eye(eye_file: Path | None, as_json: bool, end: bool, **values: Any) -> None:
    """Say whose eye is photographed next, to a run that goes on.

    It holds for one eye: until that has left, until the next `fthnet eye`, or `fthnet eye --end`. Without it the
    files of an eye say that patient and side are unknown, never those of the eye before. Names on a command line
    are seen by every user of this machine: --json reads them from stdin.
    """
    import json

    from fthnet_kit.edge.errors import InputError, OptionError
    from fthnet_kit.edge.files import make_folder, write_atomically
    from fthnet_kit.edge.outputs.best_shot.eye_context import EyeContext

    path = eye_file or current_config().best_shot.eye_file
    if path is None:
        raise OptionError("--eye-file: expected the file that `fthnet run --eye-file` watches, found none")
    given = {name: value for name, value in values.items() if value is not None}
    if as_json + end + bool(given) != 1:
        raise OptionError("expected what is known of the eye, or --json, or --end, found none or several of them")
    found = None if end else EyeContext.parse(sys.stdin.buffer.read(1 << 20) if as_json else json.dumps(given))
    make_folder(path.parent, private=not path.parent.exists())
    try:
        write_atomically(path, b"{}\n" if found is None else found.to_json(), private=True)
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, found {error.strerror}") from error
    known = (
        "unknown" if found is None else f"{found.laterality or 'side unknown'}, {found.patient_id or 'no patient id'}"
    )
    click.echo(f"the next eye: {known}")
