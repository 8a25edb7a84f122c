"""Authentication of Locust's web UI."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_cors import CORS

from loadtest.web.auth import add_authentication, authenticated_key
from orchestrator.errors import ServiceUnavailable
from orchestrator.rest_client import CertificateRejected
from orchestrator.security import keyless_access
from orchestrator.security.key_hashing import Role
from orchestrator.security.role_cache import LookUp, RoleCache

KEYS = {"viewer-key": Role.VIEWER, "operator-key": Role.OPERATOR, "chaos-key": Role.CHAOS}


def client_of(look_up: LookUp, *, key_required: bool = False) -> FlaskClient:
    app = Flask("page")
    # As in Locust's own application.
    CORS(app)
    add_authentication(app, RoleCache(look_up, key_required=key_required))
    app.add_url_rule("/", view_func=lambda: f"as {authenticated_key()}", methods=["GET", "POST"])
    return app.test_client()


def role_of(key: str | None) -> Role | None:
    return KEYS.get(key or "")


def test_only_an_operator_key_is_accepted() -> None:
    client = client_of(role_of)
    anonymous = client.get("/")
    assert (anonymous.status_code, anonymous.headers["WWW-Authenticate"][:5]) == (401, "Basic")
    assert client.get("/", auth=("x", "wrong")).status_code == 401
    assert client.get("/", auth=("x", "")).status_code == 401
    assert client.get("/", headers={"Authorization": "Bearer operator-key"}).status_code == 401
    assert client.get("/", auth=("x", "viewer-key")).status_code == 403
    assert client.get("/", auth=("x", "operator-key")).text == "as operator-key"
    assert client.get("/alive").text == "alive\n"
    assert anonymous.headers["X-Frame-Options"] == "DENY"


def test_without_keys_only_a_loopback_web_ui_is_open() -> None:
    assert client_of(lambda _key: Role.CHAOS).get("/").text == "as None"
    assert client_of(lambda _key: Role.CHAOS, key_required=True).get("/").status_code == 401


def test_without_keys_only_loopback_host_headers_are_accepted() -> None:
    client = client_of(lambda _key: Role.CHAOS)
    assert client.get("/", headers={"Host": "evil.example:8089"}).status_code == 421
    assert client.get("/", headers={"Host": "127.0.0.1"}).status_code == 200
    assert (
        client_of(role_of).get("/", headers={"Host": "a.example"}, auth=("x", "operator-key")).status_code
        == 200
    )


@pytest.mark.parametrize(
    "request_",
    [
        {"headers": {"X-Forwarded-For": "192.0.2.1"}},
        {"headers": {"Via": "1.1 proxy"}},
        {"headers": {"Host": "127.0.0.1:443"}},
        {"environ_overrides": {"SERVER_PROTOCOL": "HTTP/1.0"}},
        {"environ_overrides": {"REMOTE_ADDR": "192.0.2.1"}},
    ],
)
def test_without_keys_a_forwarded_request_is_refused(request_: dict[str, Any]) -> None:
    client = client_of(lambda _key: Role.CHAOS)
    assert client.get("/", **request_).status_code == 401
    assert client.post("/", **request_).status_code == 401
    assert client_of(role_of).post("/", auth=("x", "operator-key"), **request_).status_code == 200


def test_without_keys_a_post_of_a_proxy_without_headers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyless_access, "comes_from_proxy", lambda *_: True)
    assert client_of(lambda _key: Role.CHAOS).post("/").status_code == 401
    assert client_of(role_of).post("/", auth=("x", "operator-key")).status_code == 200


def test_cors_headers_of_locust_are_removed() -> None:
    response = client_of(role_of).get(
        "/", auth=("x", "operator-key"), headers={"Origin": "http://evil.example"}
    )
    assert response.status_code == 200
    assert not [name for name, _ in response.headers if name.lower().startswith("access-control-")]


def test_cross_site_requests_are_refused() -> None:
    client = client_of(role_of)
    operator = ("x", "operator-key")
    assert client.post("/", auth=operator, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/", auth=operator, headers={"Origin": "null"}).status_code == 403
    assert client.post("/", auth=operator, headers={"Origin": "http://localhost"}).status_code == 200
    assert client.post("/", auth=operator).status_code == 200


def test_requests_are_refused_while_the_api_is_unavailable() -> None:
    def unavailable(_key: str | None) -> Role | None:
        raise ServiceUnavailable

    assert client_of(unavailable).get("/", auth=("x", "operator-key")).status_code == 503


def test_a_rejected_certificate_of_the_api_is_named() -> None:
    def reject(_key: str | None) -> Role | None:
        raise CertificateRejected("the certificate of the API at https://api is rejected: it has expired")

    response = client_of(reject).get("/", auth=("x", "operator-key"))
    assert response.status_code == 503
    assert "the certificate of the API at https://api is rejected: it has expired." in response.text
