"""Commands for API keys. They write to the order database directly and need no API key."""

import re
from typing import Annotated

import typer

from db import api_keys
from orchestrator.cli.output import AsJson, console, echo, print_json, table
from orchestrator.errors import UsageError
from orchestrator.security.key_hashing import Role, hash_key, is_strong, new_key
from orchestrator.settings import Settings

keys = typer.Typer(
    help="Create, list and revoke API keys. Once a key exists, every request needs one.",
    no_args_is_help=True,
)

NAME_PATTERN = r"[A-Za-z0-9_.@-]{1,64}"


def register(app: typer.Typer) -> None:
    app.add_typer(keys, name="keys")


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the key, for example of its user.")],
    role: Annotated[str, typer.Option("--role", help="viewer, operator or chaos.")],
    from_environment: Annotated[
        bool,
        typer.Option(
            "--from-environment",
            help="Store the key in the variable API_KEY instead of a new one, unless it is stored already.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError("A key's name has 1 to 64 letters, digits, or _ . @ -")
    try:
        Role.of(role)
    except KeyError:
        raise UsageError(f"Unknown role {role!r}. Choose one of: viewer, operator, chaos.") from None
    settings = Settings.load()
    if from_environment:
        _add_from_environment(settings, name, role)
        return
    key = new_key()
    if not api_keys.add(settings.order_database_url, hash_key(key), name, role):
        raise UsageError(f"A key named {name} exists already. Revoke it first, or choose another name.")
    if as_json:
        print_json({"name": name, "role": role, "key": key})
        return
    echo(key)
    echo(f"This is the key of {name} ({role}). It cannot be shown again: only its hash is stored.")


def _add_from_environment(settings: Settings, name: str, role: str) -> None:
    key = settings.api_key_text
    if key is None or not is_strong(key):
        raise UsageError(
            "API_KEY must be a key like those of `orders keys add`: ord_ and 43 letters, digits, - or _."
        )
    known = {each.key_hash: each for each in api_keys.load_stored_keys(settings.order_database_url)}
    if hash_key(key) not in known:
        if not api_keys.add(settings.order_database_url, hash_key(key), name, role):
            raise UsageError(
                f"Another key named {name} exists already. Revoke it first, or choose another name."
            )
        echo(f"The key of {name} ({role}) is stored.")
        return
    found = known[hash_key(key)]
    if not found.is_valid or (found.name, found.role) != (name, role):
        state = "" if found.is_valid else ", which is revoked"
        raise UsageError(f"API_KEY is the key of {found.name} ({found.role}){state}.")
    echo(f"The key of {name} ({role}) is stored already.")


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the names and roles of all keys, including revoked ones."""
    found = api_keys.list_keys(Settings.load().order_database_url)
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
        echo("There are no keys. Requests from this machine are allowed without one.")
        return
    rows = [
        (
            key.name,
            key.role,
            *(time and f"{time:%Y-%m-%d %H:%M:%S}" for time in (key.created_at, key.revoked_at)),
        )
        for key in found
    ]
    console.print(table("name, role, created, revoked", rows))


@keys.command()
def revoke(name: Annotated[str, typer.Argument(help="A name that `orders keys list` shows.")]) -> None:
    """Revoke a key. It becomes invalid within seconds."""
    if not api_keys.revoke(Settings.load().order_database_url, name):
        raise UsageError(f"There is no valid key named {name}.")
    echo(f"The key of {name} is revoked.")
