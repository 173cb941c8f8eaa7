"""The SPI bus loops in machine code, on QEMU's controller with its NOR flash."""

import shutil

import crcmod.predefined
import pytest

from cpython_floor import ROOT
from qemu.rig import MB, Rig

CRC16 = crcmod.predefined.mkCrcFun("xmodem")

pytestmark = pytest.mark.parametrize("spec", ["qemu_sifive_u"], indirect=True)

PRELUDE = """
import errno, os, time
from lifeboat.drivers.sifive_spi import CS, SPI
spi, cs = SPI(0x10040000, 50000000), CS(0x10040000)
LENGTHS = (0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256)

def command(code, at, work):
    cs(0)
    spi.write(bytes([code]) + at.to_bytes(4, "big"))
    try:
        return work()
    finally:
        cs(1)

def enable():
    cs(0)
    spi.write(b"\\x06")
    cs(1)
"""


@pytest.fixture(scope="module")
def made(spec, tmp_path_factory):
    rig = Rig(spec, tmp_path_factory.mktemp("spi"))
    rig.make_image(MB)
    yield rig
    shutil.rmtree(rig.folder, ignore_errors=True)


@pytest.fixture
def run(made, tmp_path):
    """run(code, **board) -> what the code prints; the flash is a copy with an image of 1 MB."""

    def run(code, **keywords):
        with made.copy_to(tmp_path).board([], **keywords) as board:
            board.repl(interrupt=True)
            for text in (PRELUDE, code):
                out, err = board.run(text)
                assert not err, err
            return out.split()

    yield run
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_readinto_takes_every_length_and_alignment(made, run):
    code = """
for n in LENGTHS:
    for start in range(5):
        buf = bytearray(b"\\xee" * 270)
        command(0x13, 1000, lambda: spi.readinto(memoryview(buf)[start : start + n], 0xFF))
        print(buf.hex())
"""
    got = run(code)
    i = 0
    for n in (0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256):
        for start in range(5):
            want = bytearray(b"\xee" * 270)
            want[start : start + n] = made.good[1000 : 1000 + n]
            assert got[i] == want.hex(), (n, start)
            i += 1


def test_write_takes_every_length_and_alignment(run):
    code = """
source = os.urandom(270) if hasattr(os, "urandom") else bytes(i * 89 & 255 for i in range(270))
page = 0x1000000
for n in LENGTHS:
    for start in range(5):
        data = memoryview(source)[start : start + n]
        enable()
        command(0x12, page, lambda: spi.write(data))
        if command(0x13, page, lambda: spi.read(258)) != bytes(data) + b"\\xff" * (258 - n):
            print("wrong", n, start)
        page += 512
print("done")
"""
    assert run(code) == ["done"]


def test_write_readinto_takes_every_length_and_alignment(made, run):
    code = """
source = b"\\x13" + (1000).to_bytes(4, "big") + bytes(270)
for n in LENGTHS:
    for start in range(3):
        buf = bytearray(b"\\xee" * 280)
        cs(0)
        spi.write_readinto(memoryview(source)[: n + 5], memoryview(buf)[start : start + n + 5])
        cs(1)
        print(buf[start + 5 : start + 5 + n].hex() or "-", buf[start + 5 + n :].strip(b"\\xee"))
"""
    got = run(code)
    lengths = [n for n in (0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256) for _ in range(3)]
    assert got[::2] == [made.good[1000 : 1000 + n].hex() or "-" for n in lengths]
    assert set(got[1::2]) == {"b''"}


# RAM in place of the registers: nothing is ever pending, and the FIFO always empty.
def test_a_controller_that_does_not_clock_is_a_timeout(run):
    code = """
import uctypes
registers = bytearray(b"\\xff" * 0x4C + b"\\x00\\x00\\x00\\x80" + bytes(0x40))
dead = SPI(uctypes.addressof(registers))
for n in (1, 8, 20):
    for call in (
        lambda: dead.read(n),
        lambda: dead.write(bytes(n)),
        lambda: dead.write_readinto(bytes(n), bytearray(n)),
    ):
        began = time.ticks_ms()
        try:
            call()
            print("no error")
        except OSError as e:
            print(errno.errorcode[e.errno], time.ticks_diff(time.ticks_ms(), began) < 2000)
"""
    assert run(code) == ["ETIMEDOUT", "True"] * 9


@pytest.mark.parametrize("work", ["spi.readinto(buf)", "spi.write(buf)"])
def test_a_byte_takes_less_than_six_instructions(run, work):
    code = f"""
buf = bytearray(65536)
{work}
began = time.ticks_cpu()
{work}
print(time.ticks_diff(time.ticks_cpu(), began))
"""
    (count,) = run(code, icount="shift=0,sleep=off")
    assert int(count) / 65536 < 6


def test_transact_does_what_the_steps_do(made, run):
    """Heads and answers that fit into the FIFO together, just fit, and do not; and pages."""
    code = """
def steps(head, out, into):
    cs(0)
    spi.write(head)
    if out:
        spi.write(out)
    elif into:
        spi.readinto(into)
    cs(1)

for work in steps, lambda *args: spi.transact(cs, *args):
    for n in 0, 1, 2, 3, 4, 7, 8, 9, 64, 65:
        for start in range(3):
            buf = bytearray(b"\\xee" * 80)
            work(b"\\x13\\x00\\x00\\x03\\xe8", b"", memoryview(buf)[start : start + n])
            print(buf.hex())
    for n in 1, 7, 8, 200:
        work(b"\\x06", b"", b"")
        work(b"\\x12\\x01\\x80\\x00\\x00", memoryview(bytes(range(255, 55, -1)))[:n], b"")
        status = bytearray(b"\\x01")
        while status[0] & 1:
            work(b"\\x05", b"", status)
    back = bytearray(210)
    work(b"\\x13\\x01\\x80\\x00\\x00", b"", back)
    print(back.hex(), cs())
    work(b"\\x06", b"", b"")
    work(b"\\x21\\x01\\x80\\x00\\x00", b"", b"")
    status = bytearray(b"\\x01")
    while status[0] & 1:
        work(b"\\x05", b"", status)
"""
    got = run(code)
    half = len(got) // 2
    assert got[:half] == got[half:] and half == 32
    for i, (n, start) in enumerate(
        (n, s) for n in (0, 1, 2, 3, 4, 7, 8, 9, 64, 65) for s in range(3)
    ):
        want = bytearray(b"\xee" * 80)
        want[start : start + n] = made.good[1000 : 1000 + n]
        assert got[i] == want.hex(), (n, start)
    assert got[30] == bytes(range(255, 55, -1)).hex() + "ff" * 10


def test_the_crcs_of_packets_are_those_of_plain_python(run):
    """Whatever the alignment of the buffer."""
    plain = (ROOT / "firmware/lifeboat/drivers/sdspi_plain.py").read_text()
    code = f"""
from lifeboat.drivers.sdspi_rv32 import sums
names = {{}}
exec({plain!r}, names)
room = bytearray(i * 167 >> 3 & 255 for i in range(3 * 512 + 16))
for start in range(9):
    for n in range(4):
        for call in sums, names["sums"]:
            out = bytearray(8)
            call(memoryview(room)[start : start + n * 512], 512, out)
            print(out.hex())
"""
    got = run(code)
    room = bytes(i * 167 >> 3 & 255 for i in range(3 * 512 + 16))
    want = []
    for start in range(9):
        for n in range(4):
            packets = [room[start + i * 512 :][:512] for i in range(n)]
            out = b"".join(CRC16(packet).to_bytes(2, "big") for packet in packets)
            want += [out.ljust(8, b"\0").hex()] * 2
    assert got == want
