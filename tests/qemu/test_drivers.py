"""Drivers and kernels on the boards, with QEMU's models of the hardware."""

import shutil
import struct
import zlib
from pathlib import Path

import pytest

from fakes.rng import Rng
from lifeboat_host import nbd
from qemu.rig import MB, Rig, extents

virt = pytest.mark.parametrize("spec", ["qemu_virt"], indirect=True)
sifive_u = pytest.mark.parametrize("spec", ["qemu_sifive_u"], indirect=True)

TIB = 1 << 40
FREE = 25 * MB  # flash from here on is left free by the image

# The board's devices, and a call with the name of its error.
PRELUDE = """
import board, errno, gc, time
disks = board.disks()
for d in disks:
    d.ioctl(1, 0)
d = disks[0] if disks else None

def result(call, *args):
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "ok"
"""


@pytest.fixture(scope="module")
def made(spec, tmp_path_factory):
    rig = Rig(spec, tmp_path_factory.mktemp("drivers"))
    rig.make_image(MB)
    yield rig
    shutil.rmtree(rig.folder, ignore_errors=True)


@pytest.fixture
def rig(made, tmp_path):
    """A rig without disks whose flash has an image of 1 MB."""
    yield made.copy_to(tmp_path)
    shutil.rmtree(tmp_path, ignore_errors=True)


class Console:
    """A board in the raw REPL, with the prelude run."""

    def __init__(self, rig, drives=None):
        self._board = rig.board(drives)

    def __enter__(self):
        self._board.on()
        self._board.repl()
        self.run(PRELUDE)
        return self

    def __exit__(self, *_):
        self._board.close()

    def run(self, code):
        """Run code that must not fail; the words it printed."""
        out, err = self._board.run(code)
        assert not err, err
        return out.split()

    def operations(self, node):
        """How often QEMU's disk was asked for something."""
        for device in self._board.qmp("query-blockstats", **{"query-nodes": True}):
            if device.get("node-name") == node:
                stats = device["stats"]
                return sum(stats[k + "_operations"] for k in ("rd", "wr", "flush"))
        raise AssertionError(node)


def source(name):
    """A file of tests/ to be run on the board."""
    return (Path(__file__).parents[1] / name).read_text()


def test_flash_conformance(rig):
    with Console(rig, [rig.blank_disk()]) as console:
        *_, checks, what, passed, size = console.run(
            source("conformance/flash.py")
            + "flash = board.flash()\nsize = flash.ioctl(5, 0)\n"
            + f"check_flash(flash, {FREE} // size, 3)\nprint(size)"
        )
    assert (what, passed) == ("checks", "passed") and int(checks) > 9
    now, end = rig.flash.read_bytes(), FREE + 3 * int(size)
    assert now[:FREE] == rig.good[:FREE] and now[FREE:end] != rig.good[FREE:end]
    assert now[end:] == rig.good[end:]


# QEMU has no SATA disks with sectors of other sizes.
def test_disk_conformance(rig):
    path = rig.blank_disk(64 * MB)
    with Console(rig, [path]) as console:
        words = console.run(source("conformance/disk.py") + "check_disk(d, 2048, 1024, 1 << 19)")
    assert words[-2:] == ["checks", "passed"] and int(words[-3]) > 9
    for start, end in extents(path):
        assert 2048 * 512 <= start and end <= (2048 + 1024) * 512, "written elsewhere"


# The model of a card in tests/fakes has the specification's way: past its end a parameter error
# (0x40), wrong CRCs refused. QEMU's card calls it an address error (0x20), and checks no CRC.
@sifive_u
def test_what_a_card_refuses_is_an_error_and_what_it_accepts_is_right(rig):
    with Console(rig, [rig.blank_disk(64 * MB)]) as console:
        said = console.run(
            "from lifeboat.drivers import sdspi\n"
            "crcs, total = (sdspi._crc7, sdspi.crc16), d.sectors\n"
            "old, new, b = b'old!' * 256, b'new?' * 256, bytearray(1024)\n"
            "for n in 512, 1024:\n"
            "    d.writeblocks(9, old)\n"
            "    d.sectors += 8\n"
            "    for call in d.readblocks, d.writeblocks:\n"
            "        print(result(call, total + 4, memoryview(b)[:n]), d.r1 in (0x20, 0x40))\n"
            "    d.sectors = total\n"
            "    sdspi._crc7 = lambda buf, n: crcs[0](buf, n) ^ 2\n"
            "    accepted = result(d.readblocks, 9, memoryview(b)[:n])\n"
            "    print(accepted == 'EIO' or accepted == 'ok' and b[:n] == old[:n])\n"
            "    sdspi._crc7 = crcs[0]\n"
            "    d.ioctl(1, 0)\n"
            "    sdspi.crc16 = lambda buf: crcs[1](buf) ^ 2\n"
            "    accepted = result(d.writeblocks, 9, memoryview(new)[:n])\n"
            "    sdspi.crc16 = crcs[1]\n"
            "    d.readblocks(9, b)\n"
            "    print(accepted == 'EIO' or accepted == 'ok' and b[:n] == new[:n])\n"
        )
    assert said == ["EIO", "True", "EIO", "True", "True", "True"] * 2


@virt
def test_six_disks_and_a_second_controller(rig):
    drives = [rig.blank_disk(2 * MB) for _ in range(8)]
    drives[6] = None
    with Console(rig, drives) as console:
        names = console.run(
            "for d in disks:\n"
            "    d.writeblocks(9, (d.name + d.serial + '#' * 512)[:512].encode())\n"
            "    d.ioctl(3, 0)\n"
            "    print(d.name, d.serial)"
        )
    want = [(f"sata{n}", f"LB{n:04}", n) for n in range(6)] + [("sata1.1", "LB0007", 7)]
    assert names == [word for name, serial, _ in want for word in (name, serial)]
    for name, serial, n in want:
        with open(drives[n], "rb") as f:
            f.seek(9 * 512)
            assert f.read(512) == (name + serial).encode().ljust(512, b"#")


@virt
def test_a_disk_beyond_32_bits(rig):
    path = rig.blank_disk(4 * TIB)
    total = 4 * TIB // 512
    # Sectors whose numbers differ in high bits only must not be mistaken for each other.
    places = [5, (1 << 28) + 5, (1 << 31) + 5, (1 << 32) + 5, (1 << 32) - 1, total - 1]
    with Console(rig, [path]) as console:
        console.run(
            f"places = {places}\n"
            "for lba in places:\n"
            "    d.writeblocks(lba, lba.to_bytes(8, 'little') * 64)\n"
            "d.ioctl(3, 0)\n"
            "b = bytearray(512)\n"
            "for lba in places:\n"
            "    d.readblocks(lba, b)\n"
            "    assert b == lba.to_bytes(8, 'little') * 64, lba\n"
        )
        before = console.operations("disk0")
        refused = console.run(
            f"total = {total}\n"
            "for call in d.readblocks, d.writeblocks:\n"
            "    for lba in total, total + 5, total - 1 + (1 << 32), 1 << 48, -1:\n"
            "        print(result(call, lba, b))\n"
            "print(result(d.readblocks, total - 1, bytearray(1024)))\n"
            "print(result(d.writeblocks, total - 1, b, 1))"
        )
        assert refused == ["EINVAL"] * 12
        assert console.operations("disk0") == before
    with open(path, "rb") as f:
        for lba in places:
            f.seek(lba * 512)
            assert f.read(512) == struct.pack("<Q", lba) * 64
    assert sum(end - start for start, end in extents(path)) <= 4096 * len(places)


@virt
def test_errors_of_a_disk_and_work_after_them(rig):
    """A sector that fails to be read, one that fails to be written, a flush that fails once."""
    with nbd.Lab() as lab:
        export = lab.export("disk", nbd.FileStore(rig.blank_disk(16 * MB)))
        with Console(rig, [export]) as console:
            faults = [
                export.fail("read", span=(1000 * 512, 1001 * 512)),
                export.fail("write", span=(2000 * 512, 2001 * 512)),
                export.fail("flush", times=1),
            ]
            said = console.run(
                "b, w = bytearray(16384), b'\\x5a' * 16384\n"
                "print(result(d.readblocks, 990, b), '%02x%02x' % (d.status, d.error))\n"
                "print(result(d.readblocks, 1001, b))\n"
                "print(result(d.writeblocks, 1990, w), '%02x%02x' % (d.status, d.error))\n"
                "print(result(d.writeblocks, 2001, w))\n"
                "print(result(d.ioctl, 3, 0), result(d.ioctl, 3, 0))\n"
                "print(result(d.readblocks, 1000, memoryview(b)[:512]))\n"
                "print(result(d.readblocks, 2001, b), b == w)"
            )
            assert said == "EIO 4104 ok EIO 4104 ok EIO ok EIO ok True".split()
            assert all(fault.hits for fault in faults)
            for fault in faults:
                fault.release()
            assert console.run(
                "print(result(d.readblocks, 990, b), result(d.writeblocks, 1990, b))"
            ) == ["ok", "ok"]


@virt
def test_a_hung_command_and_the_disk_revived(rig):
    with nbd.Lab() as lab:
        export = lab.export("disk", nbd.FileStore(rig.blank_disk(16 * MB)))
        with Console(rig, [export]) as console:
            held = export.hold("read", seconds=30, span=(MB, 2 * MB))
            out = console.run(
                "b = bytearray(65536)\n"
                "t = time.ticks_ms()\n"
                "print(result(d.readblocks, 2048, b), time.ticks_diff(time.ticks_ms(), t))\n"
                "for call, *args in ((d.readblocks, 0, b), (d.writeblocks, 0, b),\n"
                "                    (d.ioctl, 3, 0), (d.ioctl, 4, 0)):\n"
                "    print(result(call, *args))"
            )
            assert out[0] == "ETIMEDOUT" and 5000 <= int(out[1]) < 6000
            assert out[2:] == ["ENODEV"] * 4
            assert held.hits == 1
            held.release()
            assert console.run(
                "b = bytearray(b'\\xa5' * 65536)\n"
                "print(result(d.ioctl, 1, 0), result(d.writeblocks, 2048, b))\n"
                "print(result(d.ioctl, 3, 0), result(d.readblocks, 0, b))\n"
                "print(result(d.readblocks, 2048, b), b == b'\\xa5' * 65536)"
            ) == ["ok"] * 5 + ["True"]


KERNELS = """
from uctypes import addressof
from lifeboat import kernels, kernels_rv32, kernels_viper
assert kernels.crc32 is kernels_rv32.crc32 and kernels.copy32 is kernels_viper.copy32
data = Rng("kernels").bytes(70000)
cases = Rng("cases")
for _ in range(300):
    start, n = cases.below(64), cases.below(300)
    b = memoryview(data)[start : start + n]
    print(start, n, 0, kernels.crc32(b))
    print(start, n, 1, kernels.crc32(b, 0x89ABCDEF))
for start in range(9):
    print(start, 65521, 0, kernels.crc32(memoryview(data)[start : start + 65521]))
print("check", kernels.crc32(b"123456789"))
"""

OTHER_KERNELS = """
ones = bytearray(b"\\xff" * 700)
for blank in kernels_rv32.blank, kernels_viper.blank:
    for _ in range(300):
        start, n = cases.below(64), cases.below(600)
        b = memoryview(ones)[start : start + n]
        assert blank(b), (start, n)
        if n:
            at, bit = cases.below(n), 1 << cases.below(8)
            b[at] ^= bit
            assert not blank(b), (start, n, at)
            ones[start + at] = 255
        ones[start - 1] = ones[start + n] = 0
        assert blank(b), (start, n)
        ones[start - 1] = ones[start + n] = 255
for poll32 in kernels_rv32.poll32, kernels_viper.poll32:
    word = bytearray(b"\\x78\\x56\\x34\\x92")
    at = addressof(word)
    assert poll32(at, 0xFFFFFFFF, 0x92345678, 1) and not poll32(at, 0x80000000, 0, 9)
    assert not poll32(at, 0, 0, 0)
for _ in range(200):
    start, n = cases.below(9), 4 * cases.below(200)
    room = bytearray(b"\\xaa" * 816)
    kernels.copy32(addressof(room) + 4, data, start, n)
    assert room[4 : 4 + n] == data[start : start + n]
    assert room[:4] == b"\\xaa" * 4 and room[4 + n :] == b"\\xaa" * (812 - n)
print("ok")
"""


@virt
def test_kernels_on_the_board(rig):
    data = Rng("kernels").bytes(70000)
    with Console(rig) as console:
        words = iter(console.run(source("fakes/rng.py") + KERNELS))
        seen = 0
        for start in words:
            if start == "check":
                assert int(next(words)) == 0xCBF43926
                break
            start, n, seeded, value = int(start), *(int(next(words)) for _ in range(3))
            want = zlib.crc32(data[start : start + n], 0x89ABCDEF if seeded else 0)
            assert value == want, (start, n, seeded)
            seen += 1
        assert seen == 609
        assert console.run(OTHER_KERNELS) == ["ok"]
        # All of the flash: slices of a memoryview can't start beyond 16 MB.
        size, used = rig.spec.flash_size, rig.blocks * rig.spec.block_size
        assert console.run(
            "view = board.flash().view\n"
            f"print(kernels.crc32(view(0, {size})), kernels.crc32(view(3, {size - 5})))\n"
            f"print(kernels.blank(view({used} + 3, {size // 4 * 3})), kernels.blank(view(0, 9)))"
        ) == [str(zlib.crc32(rig.good)), str(zlib.crc32(rig.good[3:-2])), "True", "False"]


FILESYSTEM = """
import vfs
from lifeboat.blockdev import Window
def check(kind, dev):
    kind.mkfs(dev)
    data = bytes(range(256)) * 400
    for _ in range(2):
        vfs.mount(dev, "/check")
        try:
            with open("/check/a.txt", "rb") as f:
                assert f.read() == data
            print("kept")
        except OSError as e:
            assert e.errno == errno.ENOENT
            with open("/check/a.txt", "wb") as f:
                f.write(data)
        vfs.umount("/check")
"""


@virt
def test_filesystems_on_a_window_of_a_disk(rig):
    path = rig.blank_disk(16 * MB)
    with Console(rig, [path]) as console:
        for kind in ("VfsFat", "VfsLfs2"):
            kept = console.run(FILESYSTEM + f"check(vfs.{kind}, Window(d, 4096, 8192))")
            assert kept == ["kept"], kind
    for start, end in extents(path):
        assert 4096 * 512 <= start and end <= (4096 + 8192) * 512, "written elsewhere"


@virt
def test_a_filesystem_on_a_window_of_the_flash(rig):
    size = rig.spec.block_size
    with Console(rig) as console:
        kept = console.run(
            FILESYSTEM + f"check(vfs.VfsLfs2, Window(board.flash(), {FREE // size}, 8))"
        )
        assert kept == ["kept"]
    now, end = rig.flash.read_bytes(), FREE + 8 * size
    assert now[:FREE] == rig.good[:FREE]
    assert now[end:] == rig.good[end:]
