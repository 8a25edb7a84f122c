"""Database URLs that libpq would quote, password and all, are refused without a word of them."""

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
def test_it_is_refused_in_one_sentence_that_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    said = str(refused.value)
    assert said.startswith(f"{name}: not a database URL")
    assert "s3cret" not in said
    assert "\n" not in said
    with pytest.raises(ValueError, match="not a database URL") as direct:
        Settings(database_url=text)
    assert "s3cret" not in str(direct.value)


@pytest.mark.parametrize(
    "text",
    [
        f"{SCHEME}orders:s3cret%407@db.example.com:5432/orders?sslmode=verify-full",
        f"{SCHEME}orders:a?b#c:d@[::1]/orders",
        f"{SCHEME}one,two:5433/orders",
        f"{SCHEME}postgres@/orders?host=/home/a@b/run",
        "host=/run/postgresql dbname=orders password=p@ss",
    ],
)
def test_others_are_taken_as_they_are(text: str) -> None:
    assert Settings(database_url=text).order_database_url == text
