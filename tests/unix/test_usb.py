"""The USB disk driver and one of its hosts in MicroPython."""

import errno

from .floor import run


def test_usb_disks_on_models_of_disk_and_host():
    lines = run("usb.py")
    assert sum("10 checks passed" in line for line in lines) == 4
    assert lines[-1] == "done"
    errors = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("error")}
    assert errors == {
        "bad": errno.EIO,
        "phase": errno.EIO,
        "protected": errno.EROFS,
        "hang": errno.ETIMEDOUT,
        "after": errno.ENODEV,
        "again": 0,
        "other": errno.ENODEV,
    }
