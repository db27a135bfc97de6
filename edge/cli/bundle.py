"""`fthnet bundle`: whose a bundle is, and which one a device runs."""

from __future__ import annotations

from pathlib import Path

import click

from fthnet_kit.edge.cli.options import PATH

bundle_folder = click.argument("bundle", type=PATH)


@click.group("bundle")
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
    opened = Bundle.open(bundle, require_signature)
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

    opened = Bundle.open(bundle, key)
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
