"""The commands of API keys. They act on the database itself: who reaches that needs no key."""

import re
from typing import Annotated

import typer
from rich.table import Table

from db import api_keys as stored
from orchestrator.cli.output import AsJson, console, echo, print_json
from orchestrator.errors import UsageError
from orchestrator.security.key_hashing import Role, hash_key, is_strong, new_key
from orchestrator.settings import Settings

keys = typer.Typer(
    help="Make, list and revoke API keys. With the first one, the system is closed to those who have none.",
    no_args_is_help=True,
)

NAME = r"[A-Za-z0-9_.@-]{1,64}"


def register(app: typer.Typer) -> None:
    app.add_typer(keys, name="keys")


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is; so it can be revoked alone.")],
    role: Annotated[str, typer.Option("--role", help="viewer, operator or chaos.")],
    from_environment: Annotated[
        bool,
        typer.Option(
            "--from-environment",
            help="Take API_KEY instead of making a key, and show nothing; may be repeated.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once."""
    if not re.fullmatch(NAME, name):
        raise UsageError("a key's name is 1 to 64 letters, digits, or one of _ . @ -")
    try:
        Role.of(role)
    except KeyError:
        raise UsageError(f"there is no role {role!r}; there are: viewer, operator, chaos") from None
    settings = Settings.load()
    if from_environment:
        _take(settings, name, role)
        return
    key = new_key()
    if not stored.add(settings.order_database_url, hash_key(key), name, role):
        raise UsageError(f"there is a key {name} already; revoke it first, or take another name")
    if as_json:
        print_json({"name": name, "role": role, "key": key})
        return
    echo(key)
    echo(f"This is the key of {name} ({role}). It is stored nowhere and shown once; keep it now.")


def _take(settings: Settings, name: str, role: str) -> None:
    key = settings.api_key_text
    if key is None or not is_strong(key):
        raise UsageError(
            "API_KEY must be a key as `keys add` makes them: ord_ and 43 letters, digits, - or _"
        )
    known = {each.key_hash: each for each in stored.load_stored_keys(settings.order_database_url)}
    if hash_key(key) not in known:
        if not stored.add(settings.order_database_url, hash_key(key), name, role):
            raise UsageError(f"there is another key {name} already; revoke it first, or take another name")
        echo(f"The key of {name} ({role}) is stored.")
        return
    found = known[hash_key(key)]
    if not found.is_valid or (found.name, found.role) != (name, role):
        state = "works" if found.is_valid else "is revoked"
        raise UsageError(f"this key is that of {found.name} ({found.role}), and {state}")
    echo(f"The key of {name} ({role}) is there already.")


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Show every key that there ever was, without the keys themselves."""
    found = stored.list_keys(Settings.load().order_database_url)
    if as_json:
        print_json(
            {
                "keys": [
                    {
                        "name": key.name,
                        "role": key.role,
                        "created_at": key.created_at.isoformat(timespec="seconds"),
                        "revoked_at": key.revoked_at and key.revoked_at.isoformat(timespec="seconds"),
                    }
                    for key in found
                ]
            }
        )
        return
    if not found:
        echo("There are no keys: whoever reaches this machine's loopback address may do everything.")
        return
    table = Table("name", "role", "made", "revoked", box=None, pad_edge=False)
    for key in found:
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M:%S}" if key.revoked_at else ""
        table.add_row(key.name, key.role, f"{key.created_at:%Y-%m-%d %H:%M:%S}", revoked)
    console.print(table)


@keys.command()
def revoke(name: Annotated[str, typer.Argument(help="A name that `keys list` shows.")]) -> None:
    """Make a key worthless, within seconds."""
    if not stored.revoke(Settings.load().order_database_url, name):
        raise UsageError(f"there is no working key {name}")
    echo(f"The key of {name} is revoked.")
