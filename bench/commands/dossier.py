"""`fthnet dossier`: what a maker files about a device's software and model, and what changed since."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fthnet_kit.edge.cli.lazy_group import ListingGroup
from fthnet_kit.edge.cli.options import PATH, signature_option


class WriteByDefault(ListingGroup):
    """A group whose first word may be the folder that ``write`` takes."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named, otherwise ``write``."""
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return write.name, write, args


@click.group(cls=WriteByDefault, context_settings={"ignore_unknown_options": True})
def dossier() -> None:
    """Gather what a maker files (extra: dossier): `fthnet dossier OUT/` is short for `fthnet dossier write OUT/`.

    It is evidence for a technical file, and claims no conformity to any standard.
    """


@dossier.command()
@click.argument("out", type=PATH)
@click.option("--bundle", type=PATH, help="Bundle folder. Default: the demonstration bundle that the kit ships.")
@signature_option
@click.option("--maker", default="not stated", show_default=True, help="Who files it; author of the VEX document.")
@click.option(
    "--evidence",
    multiple=True,
    type=PATH,
    help="Measurements: a JSON file of `fthnet bench`, any other file, or a folder of JSON files. May be repeated.",
)
@click.option("--audit", type=PATH, help="What `pip-audit --format json` wrote: its findings go into the VEX document.")
def write(out: Path, bundle: Path | None, maker: str, evidence: tuple[Path, ...], audit: Path | None) -> None:
    """Write a dossier to OUT, a new folder: index.html on top.

    SBOM (CycloneDX, of this environment and of the model), VEX (OpenVEX), SOUP, hazards with their controls and
    tests, known anomalies, measurements with their SHA-256, the model card.
    """
    from fthnet_kit.bench.dossier.evidence import lacking
    from fthnet_kit.bench.dossier.pages import open_weaknesses
    from fthnet_kit.bench.dossier.write import write_dossier
    from fthnet_kit.edge.model.bundle import Bundle

    written = write_dossier(out, Bundle.open(bundle, release="compare"), maker, evidence, audit)
    contents = written.contents
    for kind, command in lacking(contents.evidence).items():
        click.echo(f"no evidence of {kind}: {command}")
    for each in open_weaknesses(contents.judgements):
        click.echo(f"{each.vulnerability} in {each.component} {each.version}: {each.status}; {each.note}")
    click.echo(f"{len(contents.components)} components, {len(contents.hazards)} hazards: {out / 'index.html'}")


@dossier.command()
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="A JSON list of changes instead of lines.")
def diff(old: Path, new: Path, as_json: bool) -> None:
    """Tell what changed from dossier OLD to NEW: components, model, figures, hazards, anomalies, weaknesses.

    Exit code 1: something did; 0: nothing but the time.
    """
    from fthnet_kit.bench.dossier.compare import compare, read_dossier

    changes = compare(read_dossier(old), read_dossier(new))
    if as_json:
        click.echo(json.dumps([change.to_dict() for change in changes], indent=2, ensure_ascii=False))
    else:
        for change in changes:
            click.echo(str(change))
        if not changes:
            click.echo("nothing changed")
    if changes:
        click.get_current_context().exit(1)
