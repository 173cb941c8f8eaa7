"""I7: a healthy power-on writes nothing, neither flash nor disk."""

import os

import pytest

from lifeboat_host.qemu import faulty_media
from qemu.rig import MB

COUNTERS = """
import board
f = board.flash()
print("flash", getattr(f, "erases", 0), getattr(f, "programs", 0))
for d in board.disks():
    print(d.name, d.writes)
"""


def test_a_healthy_power_on_changes_no_file_and_no_counter(rig8):
    before = rig8.hashes()
    stamps = [os.stat(p).st_mtime_ns for p in [rig8.flash, *rig8.drives]]
    with rig8.board() as board:
        report = board.power_on_report()
        board.repl()
        out, err = board.run(COUNTERS)
        if rig8.small:  # the port's flash does not count, the emulator does
            assert board.operations() == board.complaints() == []
    assert (report["verdict"], report["reasons"]) == ("RUN", [])
    assert {m["state"] for m in report["members"]} == {"level"}
    assert report["erases"] == report["disk_writes"] == 0
    lines = [line.split() for line in out.splitlines()]
    assert not err and lines[0] == ["flash", "0", "0"]
    assert lines[1:] == [[rig8.disk_name(i), "0"] for i in range(rig8.most_disks)]
    assert rig8.hashes() == before
    assert [os.stat(p).st_mtime_ns for p in [rig8.flash, *rig8.drives]] == stamps


def test_a_healthy_power_on_reads_no_payload_and_sends_no_write(rig8):
    with faulty_media.Lab() as lab:
        exports = [lab.export(p.stem, faulty_media.FileStore(p)) for p in rig8.drives]
        report, _ = rig8.power_on(exports)
        assert report["verdict"] == "RUN"
        assert {op.name for op in lab.log} <= {"read"}
        read = sum(op.size for op in lab.log)
    # QEMU itself looks at the first sectors of a disk when it opens it.
    assert read < 256 * 1024


@pytest.mark.sata  # sifive_u's boot flash is RAM in QEMU
def test_the_boot_stage_is_write_protected(rig8):
    """Erase and program commands to pflash0, by code that runs from RAM, change nothing."""
    code = """
import micropython
@micropython.viper
def attack(base: uint):
    w = ptr32(base)
    w[0] = 0x00500050
    w[0] = 0x00200020
    w[0] = 0x00d000d0
    w[0] = 0x00400040
    w[0] = 0
    w[0] = 0x00ff00ff
attack(0x20000000 + 0x1f00000)
print("survived")
"""
    boot = rig8.spec.firmware.with_name("pflash0.img")
    with rig8.board() as board:
        board.power_on_report()
        before = boot.read_bytes()
        board.repl()
        out, err = board.run(code)
        assert (out.strip(), err) == ("survived", "")
    assert boot.read_bytes() == before


@pytest.mark.sata
def test_time_to_verdict_does_not_depend_on_the_disks_size(empty_rig):
    """Flat in disk size: guest time up to the verdict, from 160 MB to 4 TiB."""
    empty_rig.make_image(8 * MB)
    empty_rig.add_disks(1)
    small = empty_rig.drives
    times = []
    empty_rig.power_on(small)
    times.append(empty_rig.power_on(small, icount="shift=0,sleep=off")[0]["ms"]["total"])
    empty_rig.drives = []
    (empty_rig.folder / "disk0.img").unlink()
    empty_rig.add_disks(1, sizes=[4 << 40])
    empty_rig.power_on()
    times.append(empty_rig.power_on(icount="shift=0,sleep=off")[0]["ms"]["total"])
    assert times[1] <= 1.1 * times[0]
