"""What the pages need, loaded before the first viewer comes."""

import gc
import importlib
import pkgutil

import dashboard

_NOT_NEEDED = ("dashboard.app", "dashboard.bench", "dashboard.pages", "dashboard.__main__")


def preload() -> None:
    """Imports every module of the pages, and takes what that has made out of the garbage collector's sight.

    Streamlit has everything collected after each run of a page. To go through a million objects that stay
    for ever takes 0.1 s of that, several times a tick.
    """
    for module in pkgutil.walk_packages(dashboard.__path__, "dashboard."):
        if not module.name.startswith(_NOT_NEEDED):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
