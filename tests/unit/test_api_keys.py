"""API keys, the role that each route requires, and the role cache."""

from collections.abc import Callable

import pytest

from db.api_keys import StoredKey
from orchestrator.api.middleware.auth import required_role
from orchestrator.errors import ServiceUnavailable
from orchestrator.security import role_cache
from orchestrator.security.key_hashing import PREFIX, Role, hash_key, match_key, new_key
from orchestrator.security.role_cache import RoleCache


def test_keys_are_long_random_and_not_contained_in_their_hash() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and len(key) >= 47 and key.isascii() for key in keys)
    key = new_key()
    assert key not in hash_key(key)


def test_only_a_valid_key_matches() -> None:
    key, revoked = new_key(), new_key()
    stored = [
        StoredKey(hash_key(key), "ada", "viewer", True),
        StoredKey(hash_key(revoked), "bob", "chaos", False),
    ]
    found = match_key(key, stored)
    assert found is not None
    assert found.name == "ada"
    for other in (revoked, new_key(), key[:-1], key + "x", "", hash_key(key), "\udcff", "é"):
        assert match_key(other, stored) is None


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
def test_each_route_requires_a_role(method: str, path: str, role: Role) -> None:
    assert required_role(method, path) is role


class FakeApi:
    """Looks up roles with `roles`, and counts the calls."""

    def __init__(self, roles: Callable[[str | None], Role | None]) -> None:
        self.roles = roles
        self.calls = 0

    def __call__(self, key: str | None) -> Role | None:
        self.calls += 1
        return self.roles(key)


def unavailable(_key: str | None) -> Role | None:
    raise ServiceUnavailable


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the role cache, in its only item."""
    now = [1_000.0]
    monkeypatch.setattr(role_cache, "monotonic", lambda: now[0])
    return now


def test_a_role_is_looked_up_again_when_its_entry_is_old(clock: list[float]) -> None:
    api = FakeApi(lambda key: Role.VIEWER if key == "good" else None)
    cache = RoleCache(api, key_required=False)
    assert [cache.role_of(key) for key in ("good", "good", None)] == [Role.VIEWER, Role.VIEWER, None]
    assert api.calls == 2
    api.roles = lambda _key: None
    clock[0] += role_cache.FRESH_SECONDS + 0.1
    assert cache.role_of("good") is None, "the key was revoked"


def test_only_cached_keys_are_accepted_while_the_api_is_unavailable(clock: list[float]) -> None:
    api = FakeApi(lambda _key: Role.VIEWER)
    cache = RoleCache(api, key_required=False)
    assert cache.role_of("good") is Role.VIEWER
    api.roles = unavailable
    clock[0] += role_cache.GRACE_SECONDS - 1
    assert cache.role_of("good") is Role.VIEWER, "the API may be restarting"
    for key in ("other", None):
        with pytest.raises(ServiceUnavailable):
            cache.role_of(key)
    clock[0] += 2
    with pytest.raises(ServiceUnavailable):
        cache.role_of("good")


def test_where_a_key_is_required_a_request_without_one_is_not_looked_up() -> None:
    api = FakeApi(lambda _key: Role.CHAOS)
    assert RoleCache(api, key_required=True).role_of(None) is None
    assert api.calls == 0


def test_an_unavailable_api_is_not_called_again_at_once(clock: list[float]) -> None:
    api = FakeApi(unavailable)
    cache = RoleCache(api, key_required=False)
    for key in (None, "a-key", None):
        with pytest.raises(ServiceUnavailable):
            cache.role_of(key)
    assert api.calls == 1
    clock[0] += role_cache.RETRY_SECONDS + 0.1
    api.roles = lambda _key: Role.VIEWER
    assert cache.role_of(None) is Role.VIEWER
