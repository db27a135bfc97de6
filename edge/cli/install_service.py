"""`fthnet install-service`: the kit starts with the machine."""

from __future__ import annotations

from pathlib import Path

import click

from fthnet_kit.edge.cli.config import VARIABLE


@click.command("install-service")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar=VARIABLE,
    default="/etc/fthnet/fthnet.toml",
    show_default=True,
    help="Configuration of the run.",
)
@click.option("--user", default="fthnet", show_default=True, help="Whom the service runs as.")
@click.option("--print", "print_only", is_flag=True, help="Write the unit to stdout and change nothing.")
def install_service(config: Path, user: str, print_only: bool) -> None:
    """Write a systemd unit that runs a configuration from boot on, confined to what it needs.

    It starts again 2 seconds after every end: after exit code 5 (a camera that is not there, or a driver that
    hangs again and again) for ever, and where scoring hangs, or the engine only fails, for 30 seconds. A camera
    that is lost later restarts nothing. Folders that the configuration writes to are made, and given to the user.
    """
    from fthnet_kit.edge.deployment.config_file import load_config
    from fthnet_kit.edge.deployment.systemd_unit import UNIT_PATH, check_unit, install, unit_text
    from fthnet_kit.edge.errors import InputError

    loaded = load_config(config)
    text = unit_text(loaded, user)
    found = check_unit(text)
    if found:
        click.echo(f"systemd-analyze verify: {found}", err=True)
    if print_only:
        click.echo(text, nl=False)
        return
    if not Path("/run/systemd/system").is_dir():
        raise InputError("expected a machine that systemd runs, found another; --print shows the unit")
    if loaded.records.key is not None and not loaded.records.key.exists():
        public = make_device_key(loaded.records.key, user)
        click.echo(f"device key made; keep its public half, {public}, where records are checked")
    install(UNIT_PATH, text, loaded, user)
    click.echo(f"written: {UNIT_PATH}; now: systemctl daemon-reload && systemctl enable --now fthnet")


def make_device_key(key: Path, user: str) -> Path:
    """The key that signs records, which the service's user alone can read; returns the public key's file.

    Raises:
        InputError: no such user, or a file that cannot be made.
        MissingExtraError: `cryptography` is not installed.
    """
    import shutil

    from fthnet_kit.edge.errors import InputError
    from fthnet_kit.edge.files import make_folder
    from fthnet_kit.edge.trust.keys import make_key

    make_folder(key.parent)
    public = make_key(key)
    try:
        shutil.chown(key, user)
    except (LookupError, OSError) as error:
        key.unlink()  # a key that the service cannot read would be kept at the next try
        public.unlink()
        raise InputError(f"{key}: expected a key that can be given to {user}, found {error}") from error
    return public
