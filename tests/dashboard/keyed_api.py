"""A fake API with one key for each role, which records its requests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from orchestrator.security.key_hashing import Role

KEYS = {f"key-of-a-{role.word}": role for role in Role}


class KeyedApi:
    """`requests` has pairs of a path and the key of the request.

    `keyless_role` is the role of a request without a key. `faults_unavailable` is why faults are unavailable.
    """

    def __init__(self, keyless_role: Role | None = None) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self._keyless_role = keyless_role
        self.faults_unavailable: str | None = None

    def respond(self, path: str, key: str | None) -> tuple[int, object]:
        self.requests.append((path, key))
        role = self._keyless_role if key is None else KEYS.get(key)
        if role is None:
            return 401, {"detail": "an API key is required"}
        healthy = {"database_connected": True, "temporal_connected": True, "workers_healthy": True}
        if path == "/faults":
            return 200, {"unavailable": self.faults_unavailable}
        return 200, {"role": role.word} if path == "/whoami" else healthy


@contextmanager
def keyed_api(port: int, *, keyless_role: Role | None = None) -> Iterator[KeyedApi]:
    api = KeyedApi(keyless_role)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            header = self.headers.get("Authorization")
            key = None if header is None else header.removeprefix("Bearer ")
            status, content = api.respond(self.path, key)
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
