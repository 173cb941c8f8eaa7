"""The firmware on a Cortex-M3, with the same scripts that the unix port runs."""

import errno
import zlib

import crcmod.predefined
import pytest

from fakes import scenarios
from fakes.rng import Rng

from .floor import run

XMODEM = crcmod.predefined.mkCrcFun("xmodem")
GARBAGE = 10
STEP = 24  # of the power cuts, every 24th in each way; the other floors do all


def of(lines, kind):
    return [line.split()[1:] for line in lines if line.split()[:1] == [kind]]


def test_every_kernel_compiled_to_thumb_gives_zlibs_values():
    lines = run("kernels.py")
    assert of(lines, "done") == [
        ["chosen", "plain", "viper", "viper_compare", "viper_copy", "viper_crc", "viper_xor"]
    ]
    data = Rng("kernels").bytes(65536 + 64)
    names = set()
    for name, start, length, value in of(lines, "crc"):
        assert int(value) == zlib.crc32(data[int(start) : int(start) + int(length)]), name
        names.add(name)
    assert names == {"chosen", "plain", "viper_crc"}
    for name, seed, value in of(lines, "crc-from"):
        assert int(value) == zlib.crc32(data[:1000], int(seed)), (name, seed)
    for kernel, viper in ("blank", "viper"), ("poll32", "viper_crc"), ("copy32", "viper_copy"):
        assert {name for name, ok in of(lines, kernel)} == {"chosen", "plain", viper}
    assert of(lines, "waits") == [["True", "False"]]


def test_every_crc16_compiled_to_thumb_is_crcmods():
    data = Rng("crc16").bytes(5000)
    names = set()
    for line in run("crc16.py"):
        name, *numbers = line.split()
        start, length, crc, value = map(int, numbers)
        assert value == XMODEM(data[start : start + length], crc), line
        names.add(name)
    assert names == {"chosen", "plain", "viper"}


def test_backup_repair_restore_and_failing_disks_in_several_geometries():
    lines = run("flow.py")
    assert len(of(lines, "flow")) == 5
    for what in ("partition ok", "exceptions ok", "soft reset ok"):
        assert what in lines


def test_power_cuts_are_survived():
    sweeps = of(run("sweep.py", str(STEP)), "sweep")
    assert [name for name, _, _ in sweeps] == [s.name for s in scenarios.SCENARIOS]
    for name, operations, cuts in sweeps:
        assert int(cuts) >= max(4, 4 * (int(operations) // STEP)), name


def test_garbage_gives_a_verdict():
    for part, count, ran in of(run("garbage.py", str(GARBAGE)), "garbage"):
        assert int(count) == GARBAGE and int(ran) > 0, part


def test_the_devices_in_ram_pass_the_conformance_suite():
    assert len([line for line in run("drivers.py") if line.endswith("checks passed")]) == 4


def test_the_serial_flash_driver_passes_the_conformance_suite():
    lines = run("spinor.py")
    assert len([line for line in lines if line.endswith("checks passed")]) == 2
    assert lines[-1] == "errno %d" % errno.EROFS


# Byte by byte through a model of the card: a minute.
@pytest.mark.slow
def test_the_sd_driver_passes_the_conformance_suite():
    lines = run("sdspi.py", "sdhc")
    assert len([line for line in lines if line.endswith("checks passed")]) == 1
    # The errors have MicroPython's own numbers here, which are Linux's but for one.
    assert of(lines, "error") == [
        ["crc", "5"],
        ["refused", "5"],
        ["hang", "116"],
        ["after", "19"],
        ["absent", "19"],
    ]
    assert lines[-1] == "done"
