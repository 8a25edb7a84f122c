"""`python -m dashboard`: serve the dashboard until SIGTERM or SIGINT."""

import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import streamlit as st
import streamlit.config
from starlette.middleware import Middleware
from starlette.routing import Route
from streamlit.runtime.pages_manager import PagesManager

from dashboard import export, links, plotly_figure, sign_in
from dashboard.preload import preload
from dashboard.proxy_check import ProxyCheckMiddleware
from dashboard.stage import live_data
from orchestrator.errors import DatabaseError, UsageError
from orchestrator.security import bind_policy
from orchestrator.settings import Settings
from orchestrator.startup import refuse
from orchestrator.startup.configuration import configuration_findings


def main() -> int:
    try:
        settings = Settings.load()
        refuse(configuration_findings(settings))
        # If the database is unavailable, start anyway: beyond loopback, every request needs a key.
        with suppress(DatabaseError):
            bind_policy.require_api_keys(settings, "the dashboard")
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    # Ignore the user's configuration files of Streamlit, which are for other apps.
    streamlit.config.get_config_files = lambda file_name: []  # noqa: ARG005
    # Streamlit serves a folder named `pages` automatically until st.navigation has run for the first time.
    PagesManager.uses_pages_directory = False
    base_path = settings.dashboard_base_path
    app = st.App(
        Path(__file__).with_name("app.py"),
        routes=[
            *links.routes(base_path),
            Route(f"{base_path}{plotly_figure.SCRIPT_PATH}", plotly_figure.serve_script, methods=["GET"]),
            Route(f"{base_path}{export.PATH}", export.export, methods=["GET"]),
            Route(f"{base_path}{live_data.PATH}", live_data.live_data, methods=["GET"]),
        ],
        middleware=[
            Middleware(ProxyCheckMiddleware),
            Middleware(sign_in.SignInMiddleware, settings=settings),
        ],
    )
    preload()
    app.run(
        config={
            "server.address": settings.bind_address,
            "server.baseUrlPath": base_path,
            "server.port": settings.port("dashboard"),
            "server.headless": True,
            "server.fileWatcherType": "none",
            "server.runOnSave": False,
            "browser.gatherUsageStats": False,
            "browser.serverAddress": settings.local_address,
            "client.showErrorDetails": "none",
            "client.toolbarMode": "viewer",
            # Streamlit would draw the value of each expression of a page, also of a string that documents.
            "runner.magicEnabled": False,
            # Streamlit's CSV export does not escape text that a spreadsheet would run as a formula.
            "client.disableDataExport": True,
            **theme(),
        }
    )
    return 0


def theme() -> dict[str, object]:
    """Return the options of theme.toml by their full names."""
    options = tomllib.loads(Path(__file__).with_name("theme.toml").read_text())["theme"]
    for mode in ("light", "dark"):
        options |= {f"{mode}.{name}": value for name, value in options.pop(mode).items()}
    return {f"theme.{name}": value for name, value in options.items()}


if __name__ == "__main__":
    sys.exit(main())
