"""A small heap and hostile records, in MicroPython itself (I11)."""

import pytest

from .floor import run

FREE = 800  # KB, in pieces: enough for a recovery, less than the 1 MB that is claimed


def of(lines, kind):
    return [line.split(None, 1)[1] for line in lines if line.startswith(kind + " ")]


@pytest.mark.parametrize("case", ["recover-good", "recover-hostile"])
def test_a_size_field_does_not_end_a_recovery(case):
    """poc_heap2: manifests that say that they have 64 KB or 1 MB, on the first member."""
    lines = run("heap.py", case, str(FREE))
    (told,) = of(lines, "recover")
    assert told.startswith("RUN [") and "internal" not in told


@pytest.mark.parametrize("board", ["", "-none"], ids=["memory", "no memory"])
def test_forged_manifests_do_not_fill_the_scrubbers_heap(board):
    """poc_heap: thirty slots with manifests of 12 KB each."""
    (good,) = of(run("heap.py", "scrub-good" + board, "0"), "scrub")
    (hostile,) = of(run("heap.py", "scrub-hostile" + board, "0"), "scrub")
    assert int(hostile) <= int(good) + 16384
