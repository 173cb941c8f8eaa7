"""The serial NOR flash driver in MicroPython itself."""

import errno

from .floor import run


def test_the_driver_passes_the_conformance_suite():
    lines = run("spinor.py")
    assert len([line for line in lines if line.endswith("checks passed")]) == 2
    assert lines[-1] == "errno %d" % errno.EROFS
