"""CRC-16 and the SD driver in MicroPython."""

import errno

import crcmod.predefined

from fakes.rng import Rng

from .floor import run

XMODEM = crcmod.predefined.mkCrcFun("xmodem")


def test_every_crc16_is_crcmods():
    data = Rng("crc16").bytes(5000)
    names = set()
    for line in run("crc16.py"):
        name, *numbers = line.split()
        start, length, crc, value = map(int, numbers)
        assert value == XMODEM(bytes(data[start : start + length]), crc), line
        names.add(name)
    assert names >= {"chosen", "plain"}


def test_the_sd_driver_on_the_card_model():
    lines = run("sdspi.py")
    assert sum("10 checks passed" in line for line in lines) == 3
    assert lines[-1] == "done"
    errors = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("error")}
    assert errors == {
        "crc": errno.EIO,
        "refused": errno.EIO,
        "hang": errno.ETIMEDOUT,
        "after": errno.ENODEV,
        "absent": errno.ENODEV,
    }
