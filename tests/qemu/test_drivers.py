"""Drivers and kernels on the boards, with QEMU's models of the hardware."""

import shutil
import struct
import zlib
from pathlib import Path

import pytest

from cpython_floor import ROOT
from fakes.rng import Rng
from lifeboat_host.qemu import faulty_media
from qemu.rig import MB, Rig, extents

virt = pytest.mark.parametrize("spec", ["qemu_virt"], indirect=True)
sifive_u = pytest.mark.parametrize("spec", ["qemu_sifive_u"], indirect=True)

TIB = 1 << 40
FREE = 25 * MB  # flash from here on is left free by the image
SMALL_FREE = MB // 2  # the same where there is 1 MB

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

    def __init__(self, rig, drives=None, **more):
        self._board = rig.board(drives, **more)

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

    def pull(self, device):
        """Pull a disk out while the board runs."""
        self._board.qmp("device_del", id=device)

    def plug(self, **options):
        """Plug a USB disk in."""
        self._board.qmp("device_add", driver="usb-storage", bus="usb.0", **options)

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
    free = SMALL_FREE if rig.small else FREE
    with Console(rig, [rig.blank_disk()]) as console:
        *_, checks, what, passed, size = console.run(
            source("conformance/flash.py")
            + "flash = board.flash()\nsize = flash.ioctl(5, 0)\n"
            + f"check_flash(flash, {free} // size, 3)\nprint(size)"
        )
    assert (what, passed) == ("checks", "passed") and int(checks) > 9
    now, end = rig.flash.read_bytes(), free + 3 * int(size)
    assert now[:free] == rig.good[:free] and now[free:end] != rig.good[free:end]
    assert now[end:] == rig.good[end:]


# QEMU has no SATA disks with sectors of other sizes.
def test_disk_conformance(rig):
    path = rig.blank_disk(64 * MB)
    with Console(rig, [path]) as console:
        most = 1 << 15 if rig.small else 1 << 19  # of RAM
        words = console.run(source("conformance/disk.py") + f"check_disk(d, 2048, 1024, {most})")
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
            "crcs, total = (sdspi._crc7, sdspi.sums), d.sectors\n"
            "old, new, b = b'old!' * 256, b'new?' * 256, bytearray(1024)\n"
            "def wrong(buf, size, out):\n"
            "    crcs[1](buf, size, out)\n"
            "    out[0] ^= 2\n"
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
            "    sdspi.sums = wrong\n"
            "    accepted = result(d.writeblocks, 9, memoryview(new)[:n])\n"
            "    sdspi.sums = crcs[1]\n"
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


def write_far_apart(console):
    """Write and read back sectors of a disk of 4 TiB; returns their LBAs, of which some differ in
    high bits only: they must not be mistaken for each other."""
    last = 4 * TIB // 512 - 1
    places = [5, (1 << 28) + 5, (1 << 31) + 5, (1 << 32) + 5, (1 << 32) - 1, last]
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
    return places


def hold_far_apart(path, places):
    """Look into the image whether each of these sectors is where it belongs."""
    with open(path, "rb") as f:
        for lba in places:
            f.seek(lba * 512)
            assert f.read(512) == struct.pack("<Q", lba) * 64


@virt
def test_a_disk_beyond_32_bits(rig):
    path = rig.blank_disk(4 * TIB)
    total = 4 * TIB // 512
    with Console(rig, [path]) as console:
        places = write_far_apart(console)
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
    hold_far_apart(path, places)
    assert sum(end - start for start, end in extents(path)) <= 4096 * len(places)


@virt
def test_errors_of_a_disk_and_work_after_them(rig):
    """A sector that fails to be read, one that fails to be written, a flush that fails once."""
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.FileStore(rig.blank_disk(16 * MB)))
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
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.FileStore(rig.blank_disk(16 * MB)))
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
from array import array
from uctypes import addressof
from lifeboat import kernels, kernels_copy, kernels_rv32, kernels_viper, mmio
from lifeboat import evidence, kernels_compare_rv32, kernels_xor, parity
assert parity.xor is kernels_xor.xor and evidence.compare is kernels_compare_rv32.compare
assert kernels.crc32 is kernels_rv32.crc32 and mmio.copy32 is kernels_copy.copy32
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
poll32 = kernels_rv32.poll32
word = bytearray(b"\\x78\\x56\\x34\\x92")
at = addressof(word)
assert poll32(at, 0xFFFFFFFF, 0x92345678, 1) and not poll32(at, 0x80000000, 0, 9)
assert not poll32(at, 0, 0, 0)
for _ in range(200):
    start, n = cases.below(9), 4 * cases.below(200)
    room = bytearray(b"\\xaa" * 816)
    mmio.copy32(addressof(room) + 4, data, start, n)
    assert room[4 : 4 + n] == data[start : start + n]
    assert room[:4] == b"\\xaa" * 4 and room[4 + n :] == b"\\xaa" * (812 - n)
for _ in range(50):
    start, n = 4 * cases.below(64), 16 * cases.below(20)
    buf = bytearray(data[:640])
    parity.xor(memoryview(buf)[start : start + n], memoryview(data)[1024 : 1024 + n])
    for i in range(640):
        inside = start <= i < start + n
        assert buf[i] == (data[i] ^ data[1024 + i - start] if inside else data[i]), (start, n, i)
for _ in range(50):
    start, other, n = 4 * cases.below(64), 4 * cases.below(64), 4 + 4 * cases.below(100)
    was, right = memoryview(data)[start : start + n], memoryview(data)[other : other + n]
    counts = array("I", [0, 0, 0, 0])
    evidence.compare(was, right, counts)
    pairs = [(x, y) for x, y in zip(was, right) if x != y]
    assert list(counts) == [
        sum([bin(x & ~y).count("1") for x, y in pairs]),
        sum([bin(y & ~x).count("1") for x, y in pairs]),
        len(pairs), sum([x == 255 for x, _ in pairs]),
    ], (start, other, n)
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


@virt
def test_a_disk_object_of_before_a_start_is_gone_and_its_successor_works(rig):
    with Console(rig, [rig.blank_disk(16 * MB)]) as console:
        console.run("b = bytearray(b'new!' * 1024)\nold = d\nboard.start()\nd = board.disks()[0]")
        assert console.run("print(result(d.ioctl, 1, 0))") == ["ok"]
        before = console.operations("disk0")
        assert (
            console.run(
                "for call, *args in ((old.readblocks, 0, b), (old.writeblocks, 0, b),\n"
                "                    (old.writeblocks, 0, b'x', 1), (old.ioctl, 1, 0),\n"
                "                    (old.ioctl, 2, 0), (old.ioctl, 3, 0), (old.ioctl, 4, 0)):\n"
                "    print(result(call, *args))"
            )
            == ["ENODEV"] * 7
        )
        assert console.operations("disk0") == before
        assert console.run(
            "d.writeblocks(8, b)\nd.ioctl(3, 0)\nc = bytearray(4096)\nd.readblocks(8, c)\n"
            "print(c == b)"
        ) == ["True"]


@virt
def test_a_write_that_a_start_interrupts_is_not_reported_as_done(rig):
    """A scheduled callback starts the controllers anew while the disk is slow to write."""
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.FileStore(rig.blank_disk(16 * MB)))
        with Console(rig, [export]) as console:
            held = export.hold("write", seconds=5, span=(MB, 2 * MB), times=1)
            # Not before the host has the write, however busy it is.
            assert console.run(
                "import micropython, time\n"
                "w = bytearray(b'late' * 128)\n"
                "def start(since):\n"
                "    if time.ticks_diff(time.ticks_ms(), since) < 1500:\n"
                "        micropython.schedule(start, since)\n"
                "    else: board.start()\n"
                "start(time.ticks_ms())\n"
                "print(result(d.writeblocks, 2048, w))"
            ) == ["ENODEV"]
            assert held.hits == 1
            assert console.run("print(result(d.readblocks, 0, w))") == ["ENODEV"]
            assert console.run(
                "d = board.disks()[0]\nw = bytearray(b'then' * 128)\nc = bytearray(512)\n"
                "print(result(d.ioctl, 1, 0), result(d.writeblocks, 2048, w))\n"
                "print(result(d.ioctl, 3, 0), result(d.readblocks, 2048, c), c == w)"
            ) == ["ok"] * 4 + ["True"]


@virt
def test_no_read_completes_into_the_heap_after_a_soft_reset(rig):
    """To stop the port is not enough: QEMU still completes a read that the host has begun."""
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.MemoryStore(b"late" * (4 * MB)))
        with rig.board([export]) as board:
            board.repl()
            board.run(PRELUDE)
            export.hold("read", seconds=9, span=(MB, 9 * MB))
            out, err = board.run(
                "from uctypes import addressof\n"
                "b = bytearray(4 << 20)\n"
                "print(result(d.readblocks, 2048, b), addressof(b))"
            )
            assert not err, err
            said, place = out.split()
            assert said == "ETIMEDOUT"
            board.send("\x04")
            board.wait_for("soft reboot")
            board.wait_for("raw REPL; CTRL-B to exit\r\n>")
            # All that is free, and more time than the read is held.
            out, err = board.run(
                "import time\n"
                "from uctypes import addressof\n"
                "b = bytearray(7 << 20)\n"
                f"print(0 < {place} - addressof(b) < 3 << 20)\n"
                "time.sleep(6)\n"
                "print(b.find(b'late'))"
            )
            assert not err, err
            assert out.split() == ["True", "-1"]


@virt
def test_what_the_controllers_use_by_themselves_is_not_on_the_heap(rig):
    """The command list and the received FISes of each disk, as the controllers know them."""
    with Console(rig, [rig.blank_disk(2 * MB) for _ in range(8)]) as console:
        said = console.run(
            "from machine import dma, mem32\n"
            "from uctypes import addressof\n"
            "start, size = addressof(dma()), 4 * len(dma())\n"
            "places = set()\n"
            "for config in range(0x30000000, 0x30100000, 0x8000):\n"
            "    if mem32[config + 8] >> 8 & 0xFFFFFF == 0x010601:\n"
            "        bar = mem32[config + 0x24] & 0xFFFFFFF0\n"
            "        for register in range(bar + 0x100, bar + 0x400, 8):\n"
            "            if register & 0x7F in (0, 8):\n"
            "                places.add(mem32[register] & 0xFFFFFFFF)\n"
            "places.discard(0)\n"
            "print(len(places), all(0 <= place - start < size for place in places))\n"
            "heap = addressof(bytearray(6 << 20))\n"
            "print(not 0 <= start - heap < 6 << 20, not 0 <= heap - start < size)"
        )
        assert said == ["16", "True", "True", "True"]


# A port and its memory are plain RAM here. `fill` and `end` are what the driver and the hardware
# would have put there.
COMMANDS = """
from array import array
from uctypes import addressof
from lifeboat.drivers import ahci_rv32 as fast

def zeros(n):
    return array("I", bytes(4 * n))

def begin(form, serr, own, header, at):
    port, words = zeros(16), zeros(640)
    port[12] = serr
    words[0] = header
    said = form.begin(addressof(port), words, array("I", own), at)
    print(said, *port)
    print(*(words if own[2] else words[:352]))  # no bytes: what the first piece is does not matter

def ended(form, running, own, interrupts, tfd, header, count):
    port, words = zeros(16), zeros(640)
    port[14], port[4], port[8] = running, interrupts, tfd
    words[0], words[1] = header, count
    print(form.ended(addressof(port), words, array("I", own)))
"""
LINK = 0x04010000


@virt
def test_both_forms_of_a_command_are_equal(rig):
    """What begin() and ended() of ahci_rv32 do is what those of ahci_plain do, on the board."""
    begins = [
        (serr, own, header, at)
        for serr in (0, LINK, 0x00010000, 0x00000002)
        for own in ((1, LINK, 4096), (0, LINK, 4096), (1, 0, 512))
        for header, at in ((5, 0x84000000), (0x45, 0x84000001))
    ] + [
        (0, (1, LINK, size), 5, 0x90000000)
        for size in (0, 512, 0x400000 - 2, 0x400000, 0x400002, 0x800000, 0x3FFFFFE, 0x10000000)
    ]  # fmt: skip
    ends = [
        (running, (live, LINK, nbytes), interrupts, tfd, header, count)
        for running in (0, 1)
        for live in (0, 1)
        for nbytes, count in ((0, 0), (0, 512), (512, 512), (512, 510))
        for interrupts in (0, 1, 0x40000000, 0x01000000, 0x02000000)
        for tfd in (0x50, 0x51, 0x70, 0x80, 0x58)
        for header in (5, 0x45)
    ]
    plain = (ROOT / "firmware/lifeboat/drivers/ahci_plain.py").read_text()
    with Console(rig) as console:
        console.run(COMMANDS)
        console.run(f"names = {{}}\nexec({plain!r}, names)\nclass plain: pass")
        console.run("plain.begin, plain.ended = names['begin'], names['ended']")
        told = {}
        for form in "fast", "plain":
            told[form] = [
                console.run(f"for case in {cases}:\n    {call}({form}, *case)")
                for call, cases in (("begin", begins), ("ended", ends))
            ]
    assert told["fast"] == told["plain"]
    # And both do something: commands that were run, refused for each cause, ended in each way.
    lines = told["fast"][1]
    assert set(lines) == {"0", "1", "2", "3", "4", "5", "6", "7"}, set(lines)
