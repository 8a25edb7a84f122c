"""Imports before the first user."""

import subprocess
import sys

SCRIPT = """
import gc, sys
from dashboard import preload
preload.preload()
needed = ("plotly.graph_objects", "pandas", "loadtest.charts.order.timeline")
missing = [name for name in needed if name not in sys.modules]
assert not missing, missing
assert not any(name.startswith("dashboard.pages") for name in sys.modules)
# Most objects are excluded from garbage collection.
assert gc.get_freeze_count() > 10 * len(gc.get_objects()), (gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_preloaded_objects_are_excluded_from_garbage_collection() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=120)
