"""The door of Locust's page: who gets in, and with whose key a run is started."""

from flask import Flask
from flask.testing import FlaskClient
from flask_cors import CORS

from loadtest.web import auth
from orchestrator.errors import ServiceUnavailable
from orchestrator.security.key_hashing import Role
from orchestrator.security.role_cache import LookUp, RoleCache

KEYS = {"viewer-key": Role.VIEWER, "operator-key": Role.OPERATOR, "chaos-key": Role.CHAOS}


def page(ask: LookUp, *, key_required: bool = False) -> FlaskClient:
    app = Flask("page")
    # As Locust's own page has it.
    CORS(app)
    auth.hang(app, RoleCache(ask, key_required=key_required))
    app.add_url_rule("/", view_func=lambda: f"as {auth.caller_key()}", methods=["GET", "POST"])
    return app.test_client()


def known(key: str | None) -> Role | None:
    return KEYS.get(key or "")


def test_it_takes_an_operator_s_key() -> None:
    client = page(known)
    nobody = client.get("/")
    assert (nobody.status_code, nobody.headers["WWW-Authenticate"][:5]) == (401, "Basic")
    assert client.get("/", auth=("x", "wrong")).status_code == 401
    assert client.get("/", auth=("x", "")).status_code == 401
    assert client.get("/", headers={"Authorization": "Bearer operator-key"}).status_code == 401
    assert client.get("/", auth=("x", "viewer-key")).status_code == 403
    assert client.get("/", auth=("x", "operator-key")).text == "as operator-key"
    assert client.get("/alive").text == "alive\n"
    assert nobody.headers["X-Frame-Options"] == "DENY"


def test_without_keys_it_stands_open_on_this_machine_alone() -> None:
    assert page(lambda _key: Role.CHAOS).get("/").text == "as None"
    assert page(lambda _key: Role.CHAOS, key_required=True).get("/").status_code == 401


def test_without_keys_a_page_of_another_site_is_not_taken_for_ours() -> None:
    client = page(lambda _key: Role.CHAOS)
    assert client.get("/", headers={"Host": "evil.example:8089"}).status_code == 421
    assert client.get("/", headers={"Host": "127.0.0.1:8089"}).status_code == 200
    assert page(known).get("/", headers={"Host": "a.example"}, auth=("x", "operator-key")).status_code == 200


def test_no_other_site_may_read_an_answer() -> None:
    answer = page(known).get("/", auth=("x", "operator-key"), headers={"Origin": "http://evil.example"})
    assert answer.status_code == 200
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]


def test_another_site_cannot_start_a_run_with_the_browser_s_credentials() -> None:
    client = page(known)
    operator = ("x", "operator-key")
    assert client.post("/", auth=operator, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/", auth=operator, headers={"Origin": "null"}).status_code == 403
    assert client.post("/", auth=operator, headers={"Origin": "http://localhost"}).status_code == 200
    assert client.post("/", auth=operator).status_code == 200


def test_nobody_is_let_in_while_nobody_can_be_known() -> None:
    def away(_key: str | None) -> Role | None:
        raise ServiceUnavailable

    assert page(away).get("/", auth=("x", "operator-key")).status_code == 503
