"""`fthnet bundle`: whose a bundle is, and which one a device runs."""

from __future__ import annotations

from pathlib import Path

import click

from fthnet_kit.edge.cli.lazy_group import ListingGroup
from fthnet_kit.edge.cli.options import PATH, signature_option

bundle_folder = click.argument("bundle", type=PATH)


@click.group("bundle", cls=ListingGroup)
def bundle_group() -> None:
    """Sign bundles and check signatures (extra: sign)."""


@bundle_group.command()
@click.argument("key", type=PATH)
def keygen(key: Path) -> None:
    """Make an Ed25519 key pair: KEY, which stays with you, and KEY.pub, which goes to every device."""
    from fthnet_kit.edge.trust.keys import key_id, make_key, read_public_key

    public = make_key(key)
    click.echo(f"private key: {key} (keep it off devices), public key: {public}, id {key_id(read_public_key(public))}")


@bundle_group.command()
@bundle_folder
@click.option("--key", required=True, type=PATH, help="Private key of `fthnet bundle keygen`.")
@click.option(
    "--release",
    required=True,
    type=click.IntRange(1, 2**53),
    help="Counts up with every bundle that is handed out; devices refuse a smaller one than they have seen.",
)
@click.option(
    "--require-signature", metavar="KEY.pub", type=PATH, help="Key that has signed it before, to be checked first."
)
def sign(bundle: Path, key: Path, release: int, require_signature: Path | None) -> None:
    """Sign every file of a BUNDLE, the engines in it too.

    A device that builds engines of its own signs the bundle again with a key of its own, once the maker's signature
    has been checked (--require-signature).
    """
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.trust.keys import read_private_key
    from fthnet_kit.edge.trust.manifest import sign_manifest

    private = read_private_key(key)
    opened = Bundle.open(bundle, require_signature, release="compare")
    opened.check_weights()
    manifest = sign_manifest(bundle, private, opened.card.name, opened.card.version, release)
    click.echo(f"{manifest.name} {manifest.version}: {manifest.origin}, {len(manifest.files)} files")


@bundle_group.command()
@bundle_folder
@click.option("--key", required=True, metavar="KEY.pub", type=PATH, help="Public key that it must be signed with.")
def verify(bundle: Path, key: Path) -> None:
    """Check a BUNDLE's signature, every file of it, and that its weights are those of its card.

    Exit code 4: unsigned, altered, incomplete, another key's, or older than one that was accepted on this machine.
    """
    from fthnet_kit.edge.model.bundle import Bundle

    opened = Bundle.open(bundle, key, release="compare")
    opened.check_weights()
    assert opened.signed is not None
    for name in opened.signed.files:
        opened.signed.compare_file(bundle, name)
    click.echo(opened.card.title)


@bundle_group.command()
@bundle_folder
def show(bundle: Path) -> None:
    """Tell what a BUNDLE is, and what its signature states. Nothing vouches for it without `verify`."""
    from fthnet_kit.edge.files import read_regular
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.trust.manifest import MANIFEST_NAME, MOST_MANIFEST_BYTES, SignedManifest, is_signed

    opened = Bundle.open(bundle)
    card = opened.card
    click.echo(card.title)
    click.echo(f"by {card.manufacturer}; weights {card.weights_sha256[:12]}; {len(card.files)} files in the card")
    if is_signed(bundle) and (bundle / MANIFEST_NAME).is_file():
        path = bundle / MANIFEST_NAME
        stated = SignedManifest.from_bytes(read_regular(path, MOST_MANIFEST_BYTES), str(path))
        click.echo(f"states, unchecked: {stated.origin}, at {stated.signed_at}, {len(stated.files)} files")


slots_option = click.option(
    "--slots", default="/var/lib/fthnet/bundles", show_default=True, type=PATH, help="Folder of the two slots."
)


@bundle_group.command()
@bundle_folder
@click.argument("pictures", nargs=-1, type=PATH)
def reference(bundle: Path, pictures: tuple[Path, ...]) -> None:
    """Put reference PICTURES and their scores into a BUNDLE, for the health check of `activate`; sign it afterwards.

    Default: the retinal photograph that the kit ships.
    """
    from importlib.resources import files

    from fthnet_kit.edge.cli.options import tell_unsigned
    from fthnet_kit.edge.deployment.bundle_slots import write_reference

    shipped = Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg"))
    scores = write_reference(bundle, list(pictures) or [shipped])
    tell_unsigned(bundle)
    click.echo(f"{len(scores)} reference pictures: {', '.join(f'{score:.2f}' for score in scores)} points")


@bundle_group.command()
@signature_option
@bundle_folder
@slots_option
def install(bundle: Path, slots: Path) -> None:
    """Copy a BUNDLE into the slot that does not run. Nothing changes until `activate`."""
    from fthnet_kit.edge.deployment.bundle_slots import Slots

    click.echo(f"installed in slot {Slots(slots).install(bundle)}; next: fthnet bundle activate --slots {slots}")


@bundle_group.command()
@signature_option
@slots_option
def activate(slots: Path) -> None:
    """Check that the installed bundle scores its reference pictures within 0.05 points here, and switch to it.

    Runs use it from their next start on (`--bundle SLOTS/current`). A bundle that then fails to start three times in a
    row is replaced by the one before. Exit code 4: it fails; what ran goes on.
    """
    from fthnet_kit.edge.deployment.bundle_slots import Slots

    click.echo(f"active: slot {Slots(slots).activate()}; restart the run")


@bundle_group.command()
@signature_option
@slots_option
def rollback(slots: Path) -> None:
    """Switch back to the bundle of the other slot, be it older."""
    from fthnet_kit.edge.deployment.bundle_slots import Slots

    click.echo(f"active: slot {Slots(slots).rollback()}; restart the run")


@bundle_group.command("list")
@slots_option
def list_slots(slots: Path) -> None:
    """Tell what lies in the two slots, and which one runs."""
    from fthnet_kit.edge.deployment.bundle_slots import SLOTS, Slots
    from fthnet_kit.edge.errors import BundleError
    from fthnet_kit.edge.model.bundle import Bundle

    found = Slots(slots)
    for name in SLOTS:
        try:
            what = Bundle.open(slots / name, release="ignore").card.title if (slots / name).is_dir() else "empty"
        except BundleError as error:
            what = str(error)
        click.echo(f"{'*' if name == found.active else ' '} {name}  {what}")
