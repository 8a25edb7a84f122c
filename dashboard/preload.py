"""Imports the modules that the pages use, before the first user opens a page."""

import gc
import importlib
import pkgutil

import dashboard

# Importing one of these would run it.
_EXCLUDED = ("dashboard.app", "dashboard.pages", "dashboard.__main__")


def preload() -> None:
    """Import the modules that pages use, and exclude their objects from garbage collection.

    Streamlit collects garbage after each script run. Scanning these million permanent objects would take
    0.1 s each time.
    """
    for module in pkgutil.walk_packages(dashboard.__path__, "dashboard."):
        if not module.name.startswith(_EXCLUDED):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
