"""Malformed database URLs are rejected without quoting them: libpq's own message may contain the password."""

import pytest

from orchestrator.errors import SettingsError
from orchestrator.settings import Settings

SCHEME = "postgresql://"


@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_READER_URL"])
@pytest.mark.parametrize(
    "text",
    [
        "postgres//orders:s3cret@db/orders",
        f"{SCHEME}orders:s3cret@7@127.0.0.1/orders",
        f"{SCHEME}orders:7@s3cret@127.0.0.1/orders",
        f"{SCHEME}orders:s3cret/7@127.0.0.1/orders",
        f"{SCHEME}orders:7/s3cret@127.0.0.1/orders",
        f"{SCHEME}orders:s3cret 7@127.0.0.1/orders",
        f"{SCHEME}orders:s3cret%zz@127.0.0.1/orders",
        "s3cret",
    ],
)
def test_a_malformed_url_is_rejected_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError) as rejected:
        Settings.load()
    message = str(rejected.value)
    assert message.startswith(f"{name}: not a database URL")
    assert "s3cret" not in message
    assert "\n" not in message
    with pytest.raises(ValueError, match="not a database URL") as direct:
        Settings(database_url=text)
    assert "s3cret" not in str(direct.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{SCHEME}orders@db/orders?schema=public", "no connection parameter schema"),
        (f"{SCHEME}orders@db/orders?sslmode=require&pool_size=5", "no connection parameter pool_size"),
        (f"{SCHEME}orders@db/orders?SSLMODE=require", "no connection parameter SSLMODE"),
        (f"{SCHEME}orders:s3cret@db/orders?sslmode=required", "sslmode has an invalid value; use one of"),
        (f"{SCHEME}orders:s3cret@db/orders?channel_binding=yes", "channel_binding has an invalid value"),
        (f"{SCHEME}orders:s3cret@db/orders?keepalives=yes", "keepalives must be a whole number"),
        ("postgres+asyncpg://orders:s3cret@db/orders", "the scheme postgres+asyncpg:// is not supported"),
        ("jdbc:postgresql://db/orders", "the scheme jdbc:postgresql:// is not supported"),
        ("mysql://orders:s3cret@db/orders", "the scheme mysql:// is not supported"),
        (f"{SCHEME}orders:s3cret@/orders", "the host is missing"),
        (f"{SCHEME}orders:s3cret@db", "the name of the database is missing"),
        (f"{SCHEME}orders:s3cret@db:70000/orders", "the port must be 1 to 65535"),
        (f"{SCHEME}orders:a/b?s3cret=d@db/orders", "not a database URL"),
    ],
)
def test_the_wrong_part_of_a_url_is_named(monkeypatch: pytest.MonkeyPatch, text: str, problem: str) -> None:
    monkeypatch.setenv("DATABASE_URL", text)
    with pytest.raises(SettingsError) as rejected:
        Settings.load()
    message = str(rejected.value)
    assert problem in message
    assert ("percent-encode" in message) == (problem == "not a database URL")
    assert "s3cret" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        f"{SCHEME}orders@db/orders?sslmode=require&channel_binding=require&connect_timeout=5",
        f"{SCHEME}orders:s3cret%407@db.example.com:5432/orders?sslmode=verify-full",
        f"{SCHEME}orders:a?b#c:d@[::1]/orders",
        f"{SCHEME}one,two:5433/orders",
        f"{SCHEME}postgres@/orders?host=/home/a@b/run",
        "host=/run/postgresql dbname=orders password=p@ss",
    ],
)
def test_other_urls_are_used_unchanged(text: str) -> None:
    assert Settings(database_url=text).order_database_url == text
