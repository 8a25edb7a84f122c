"""Imports of all pages, done before the first user opens one."""

import gc
import importlib
import pkgutil

import dashboard

_EXCLUDED = ("dashboard.app", "dashboard.pages", "dashboard.__main__")


def preload() -> None:
    """Import the modules that pages use, and exclude the created objects from garbage collection.

    Streamlit collects garbage after each run of a page. Scanning a million permanent objects takes 0.1 s of
    each run.
    """
    for module in pkgutil.walk_packages(dashboard.__path__, "dashboard."):
        if not module.name.startswith(_EXCLUDED):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
