"""The stated goals are reached: instructions and sizes only, no seconds."""

import pytest

from lifeboat_host import bench, boards
from lifeboat_host.errors import LifeboatError

KEYS = [
    "size",
    "inspection",
    "sha256",
    "healthy",
    "payload",
    "restore",
    "one bad block",
    "disk read, 4 MB",
    "heap, healthy",
    "heap, recovery",
    "backup",
    "growth, flash",
    "growth, disk",
    "growth, members",
]


@pytest.fixture(scope="module")
def rows(spec):
    if not bench.cross_compiler().is_file():
        pytest.skip("mpy-cross is not built: run ./lifeboat setup")
    return {row.key: row for row in bench.measure(quick=True)}


@pytest.mark.parametrize("key", KEYS)
def test_the_goal_is_reached(rows, key):
    row = rows[key]
    assert row.ok, f"{row.what}: {row.value:.4g} {row.unit}, goal {row.reach:.4g}; {row.note}"


def test_every_goal_is_tested(rows):
    assert [key for key, row in rows.items() if row.ok is not None] == KEYS


def test_a_compiler_that_is_missing_is_told(spec, monkeypatch, tmp_path):
    monkeypatch.setattr(boards, "cache", lambda: tmp_path)
    with pytest.raises(LifeboatError) as caught:
        bench.module_sizes()
    assert caught.value.code == "mpy-cross"
