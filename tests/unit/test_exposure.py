"""Which addresses are this machine's alone, and what roles, keys and callers are worth."""

from collections.abc import Callable

import pytest

from db.api_keys import StoredKey
from orchestrator.api.middleware.auth import required_role
from orchestrator.errors import ServiceUnavailable
from orchestrator.security import role_cache
from orchestrator.security.bind_policy import is_loopback, is_loopback_host
from orchestrator.security.key_hashing import PREFIX, Role, hash_key, match_key, new_key
from orchestrator.security.role_cache import RoleCache


@pytest.mark.parametrize(
    ("address", "is_ours_alone"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("", False),
        ("*", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_addresses_of_this_machine_alone(address: str, is_ours_alone: bool) -> None:
    assert is_loopback(address) is is_ours_alone


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        (None, True),
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("127.0.0.2:8000", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("", False),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("evil.example#127.0.0.1", False),
        ("192.168.1.5:8000", False),
        ("[::1", False),
    ],
)
def test_which_requests_without_a_key_are_for_this_machine(host: str | None, is_here: bool) -> None:
    assert is_loopback_host(host) is is_here


def test_keys_are_long_random_and_stored_as_their_hash() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and len(key) >= 47 and key.isascii() for key in keys)
    key = new_key()
    assert key not in hash_key(key)


def test_a_key_is_found_while_it_works() -> None:
    key, revoked = new_key(), new_key()
    known = [
        StoredKey(hash_key(key), "ada", "viewer", True),
        StoredKey(hash_key(revoked), "bob", "chaos", False),
    ]
    found = match_key(key, known)
    assert found is not None
    assert found.name == "ada"
    for other in (revoked, new_key(), key[:-1], key + "x", "", hash_key(key), "\udcff", "é"):
        assert match_key(other, known) is None


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/orders", Role.VIEWER),
        ("GET", "/faults", Role.VIEWER),
        ("GET", "/metrics", Role.VIEWER),
        ("GET", "/docs", Role.VIEWER),
        ("POST", "/orders/a/start", Role.OPERATOR),
        ("POST", "/orders/a/signals/cancel", Role.OPERATOR),
        ("PUT", "/faults", Role.CHAOS),
        ("PUT", "/faults/", Role.CHAOS),
        ("PUT", "/anything/new", Role.OPERATOR),
        ("DELETE", "/orders", Role.OPERATOR),
    ],
)
def test_what_each_role_may_do(method: str, path: str, role: Role) -> None:
    assert required_role(method, path) is role


class Api:
    """Answers what it is told to, and counts the questions."""

    def __init__(self, answer: Callable[[str | None], Role | None]) -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self, key: str | None) -> Role | None:
        self.asked += 1
        return self.answer(key)


def away(_key: str | None) -> Role | None:
    raise ServiceUnavailable


def test_callers_are_asked_after_again_once_what_is_known_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(role_cache, "monotonic", lambda: now)
    api = Api(lambda key: Role.VIEWER if key == "good" else None)
    known = RoleCache(api, key_required=False)
    assert [known.role_of("good"), known.role_of("good"), known.role_of(None)] == [
        Role.VIEWER,
        Role.VIEWER,
        None,
    ]
    assert api.asked == 2
    api.answer = lambda _key: None
    now += role_cache.FRESH_SECONDS + 0.1
    assert known.role_of("good") is None, "revoked"


def test_nobody_new_is_let_in_while_the_api_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(role_cache, "monotonic", lambda: now)
    api = Api(lambda _key: Role.VIEWER)
    known = RoleCache(api, key_required=False)
    assert known.role_of("good") is Role.VIEWER
    api.answer = away
    now += role_cache.GRACE_SECONDS - 1
    assert known.role_of("good") is Role.VIEWER, "it may just be started again"
    for key in ("other", None):
        with pytest.raises(ServiceUnavailable):
            known.role_of(key)
    now += 2
    with pytest.raises(ServiceUnavailable):
        known.role_of("good")


def test_where_a_key_is_a_must_nobody_is_asked_about_no_key() -> None:
    api = Api(lambda _key: Role.CHAOS)
    assert RoleCache(api, key_required=True).role_of(None) is None
    assert api.asked == 0


def test_an_api_that_does_not_answer_is_not_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(role_cache, "monotonic", lambda: now)
    api = Api(away)
    known = RoleCache(api, key_required=False)
    for key in (None, "a-key", None):
        with pytest.raises(ServiceUnavailable):
            known.role_of(key)
    assert api.asked == 1
    now += role_cache.RETRY_SECONDS + 0.1
    api.answer = lambda _key: Role.VIEWER
    assert known.role_of(None) is Role.VIEWER
