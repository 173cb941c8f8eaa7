"""Common to all floors: paths, and the marker of the folder a test stands in."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))
sys.path.insert(0, str(TESTS.parent / "host_tools"))

from sweeping import pytest_runtest_makereport, sweep  # noqa: E402, F401

import cpython_floor  # noqa: E402 - the path to it is set above

cpython_floor.install()

pytest_plugins = ["sim.plugin"]


@pytest.fixture
def no_parity(monkeypatch):
    """A board without the extra parity: a block that is bad in flash and in every copy is lost."""
    monkeypatch.setattr("lifeboat.extended.parity", None)


FLOORS = {"unix": "unix", "arm": "arm", "qemu": "qemu"}


def pytest_collection_modifyitems(items):
    for item in items:
        folder = Path(item.path).relative_to(TESTS).parts[0]
        item.add_marker(getattr(pytest.mark, FLOORS.get(folder, "host")))
