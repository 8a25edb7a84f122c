"""The dashboard's process before its first viewer."""

import subprocess
import sys

LOOK = """
import gc, sys
from dashboard import preload
preload.preload()
needed = ("plotly.graph_objects", "pandas", "dashboard.charts.timeline")
missing = [name for name in needed if name not in sys.modules]
assert not missing, missing
assert not any(name.startswith("dashboard.pages") for name in sys.modules)
# What is out of the collector's sight is more than what it goes through.
assert gc.get_freeze_count() > 10 * len(gc.get_objects()), (gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_what_pages_import_is_loaded_and_not_collected_again_and_again() -> None:
    subprocess.run([sys.executable, "-c", LOOK], check=True, timeout=120)
