"""The files of the boards nobody has run yet, over stand-ins for what their ports supply.

The stand-ins keep the ports' rules as far as their sources tell them (MicroPython 1.25:
rp2_flash.c, esp32_partition.c): whoever breaks one finds out here and not on a board.
"""

import importlib.util
import sys
import types

import machine
import pytest
from conformance.flash import flash_checks

import lifeboat
from cpython_floor import ROOT
from fakes import board as sim
from lifeboat.drivers import sdspi
from lifeboat_host.pico.sdcard import Bus, Card, Clock
from sim.disk import RamDisk

BLOCK = 16384
TOTAL = (1 << 20) // BLOCK
SECTOR = 4096


class Flash:
    """What rp2.Flash and esp32.Partition share."""

    PAGE = 1

    def program(self, at, buf):
        assert at % self.PAGE == 0 and len(buf) % self.PAGE == 0, "not whole pages"
        assert 0 <= at and at + len(buf) <= len(self.data), "beyond the end"
        for i, byte in enumerate(buf):
            # Ones fill a page up to whole ones.
            both = self.data[at + i] & byte
            assert byte in (both, 0xFF), "programmed without erase"
            self.data[at + i] = both

    def readblocks(self, block, buf, offset=0):
        at = block * SECTOR + offset
        assert 0 <= at and at + len(buf) <= len(self.data), "beyond the end"
        buf[:] = self.data[at : at + len(buf)]

    def writeblocks(self, block, buf, offset):
        self.program(block * SECTOR + offset, buf)

    def ioctl(self, op, arg):
        if op == 4:
            return len(self.data) // SECTOR
        if op == 5:
            return SECTOR
        if op == 6:
            assert 0 <= arg < len(self.data) // SECTOR, "beyond the end"
            self.data[arg * SECTOR : (arg + 1) * SECTOR] = b"\xff" * SECTOR
        return 0 if op in (1, 2, 3, 6) else None


class Rp2Flash(bytearray, Flash):
    """Has the buffer protocol, checks no bounds, programs whole pages only."""

    PAGE = 256

    def __init__(self, *, start, len):
        super().__init__(b"\xff" * len)
        assert start % SECTOR == 0 and len % SECTOR == 0 and start + len <= 1408 * 1024

    @property
    def data(self):
        return self


class Partition(Flash):
    """Has no buffer protocol; errors are OSErrors with negative numbers."""

    def __init__(self, label):
        assert label == "lifeboat"
        self.data = bytearray(b"\xff" * (1 << 20))
        self.broken = False

    def ioctl(self, op, arg):
        if self.broken and op == 6:
            raise OSError(-0x6001, "ESP_ERR_FLASH_OP_FAIL")
        return super().ioctl(op, arg)


# board -> (its port's module, SPI id, pins)
BOARDS = {
    "rp2_sd": ("rp2", 0, {"sck": 18, "mosi": 19, "miso": 16, "cs": 17}),
    "esp32_sd": ("esp32", 2, {"sck": 18, "mosi": 23, "miso": 19, "cs": 5}),
}


class Slot:
    """machine.SPI and machine.Pin of a board, with a card at the pins its README names."""

    def __init__(self, bus, port_id, pins):
        self.bus, self.id, self.pins = bus, port_id, pins
        self.used = set()

    def pin(self, number, mode=None, value=None):
        self.used.add(number)
        if number == self.pins["cs"]:
            self.bus.cs.init(mode, value)
            return self.bus.cs
        return number

    def spi(self, port_id, **pins):
        assert port_id == self.id
        assert pins == {name: self.pins[name] for name in ("sck", "mosi", "miso")}
        return self.bus


@pytest.fixture(params=BOARDS)
def board(request, monkeypatch):
    """A board's board.py; .slot: the card's bus."""
    port, port_id, pins = BOARDS[request.param]
    clock = Clock()
    bus = Bus(Card("sdhc", 1 << 14, clock), clock)
    slot = Slot(bus, port_id, pins)
    monkeypatch.setattr(sdspi, "ticks_ms", clock.ticks_ms)
    monkeypatch.setattr(sdspi, "sleep_ms", clock.sleep_ms)

    class Pin:
        OUT = 1

        def __new__(cls, *args, **kwargs):
            return slot.pin(*args, **kwargs)

    monkeypatch.setattr(machine, "SPI", slot.spi, raising=False)
    monkeypatch.setattr(machine, "Pin", Pin, raising=False)
    supplied = types.ModuleType(port)
    supplied.Flash, supplied.Partition = Rp2Flash, Partition
    monkeypatch.setitem(sys.modules, port, supplied)
    path = ROOT / "boards" / request.param / "board.py"
    spec = importlib.util.spec_from_file_location("board_" + request.param, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.slot = slot
    yield module
    card = slot.bus.card
    assert card is None or not card.complaints, card.complaints


def content(board):
    """The bytes of the code flash, in place."""
    return board.flash()._dev.data


def install(board, memory=0):
    """Put embedded code into flash and a region onto the card, as the README says.

    memory: blocks that the image leaves for the controller's memory.
    """
    code = sim.noise(7, 5 * BLOCK)
    manifest = sim.manifest(code, BLOCK, product=board.PRODUCT, memory=memory)
    image = bytearray(b"\xff" * (TOTAL * BLOCK))
    image[: len(code)] = code
    image[-BLOCK : len(manifest) - BLOCK] = manifest
    content(board)[:] = image
    disk = RamDisk("card", 1 << 14)
    slot = sim.slot_size(TOTAL, BLOCK)
    sim.make_region(disk, slot=slot, size=sim.region_size(slot))
    board.slot.bus.card.blocks.update(disk.sectors)
    return bytes(image)


def test_the_flow(board, capsys):
    image = install(board)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN", report.data
    assert [m["state"] for m in report.data["members"]] == ["created"]
    assert board.slot.used == set(board.slot.pins.values())

    content(board)[2 * BLOCK + 77] ^= 0x10
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["repaired"][0][:2] == [2, 1], report.data
    assert content(board) == image

    content(board)[:] = b"\xff" * len(image)
    assert lifeboat.power_on(board).data["erases"] == 6
    assert content(board) == image

    board.slot.bus.card = None
    assert lifeboat.power_on(board).verdict == "RUN_DEGRADED"
    content(board)[0] ^= 1
    assert lifeboat.start(board).verdict == "RESCUE"
    capsys.readouterr()


def test_the_memory_before_the_manifest(board, capsys):
    """64 records of 256 bytes are just a block: two blocks, one for each mirror."""
    image = install(board, memory=2)
    start, middle = (TOTAL - 3) * BLOCK, (TOTAL - 2) * BLOCK
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["memory"] == "ok", report.data
    assert [reason[0] for reason in report.data["reasons"]] == ["adopted"]
    assert report.data["set"] == "53" * 16
    flash = content(board)
    assert flash[start : start + 8] == b"LBMEMORY" and flash[start:middle] == flash[middle:-BLOCK]
    assert flash[:start] + flash[-BLOCK:] == image[:start] + image[-BLOCK:]

    before = bytes(flash)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["reasons"] == [] and flash == before

    # A record that rots is appended once more, and counts; and a wiped flash.
    flash[start + 300] ^= 1
    report = lifeboat.power_on(board)
    assert report.data["set"] == "53" * 16 and report.data["reasons"] == []
    before = bytes(flash)
    lifeboat.power_on(board)
    assert flash == before
    flash[:] = b"\xff" * len(image)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["memory"] == "ok"
    assert flash[:start] + flash[-BLOCK:] == image[:start] + image[-BLOCK:]
    capsys.readouterr()


def test_the_flash_passes_the_conformance_suite(board):
    flash = board.flash()
    assert len(list(flash_checks(flash, flash.ioctl(4, 0) - 3, 3))) >= 10


def test_mapped_flash_is_not_copied(board):
    flash = board.flash()
    assert hasattr(flash, "view") == (board.PRODUCT == "lifeboat-rp2_sd")
    if hasattr(flash, "view"):
        seen = flash.view(5, 3)
        flash.writeblocks(0, b"\x12", 6)
        assert bytes(seen) == b"\xff\x12\xff"


def test_errors_of_the_port_have_a_number_that_lifeboat_knows(board):
    if board.PRODUCT == "lifeboat-esp32_sd":
        board.flash()._dev.broken = True
        with pytest.raises(OSError) as error:
            board.flash().ioctl(6, 0)
        assert error.value.args == (5,)


def test_what_the_build_needs_is_there(board):
    folder = ROOT / "boards" / board.PRODUCT.split("-")[1]
    assert board.BLOCK_SIZE == BLOCK and board.retained() is None and not board.start()
    readme = (folder / "README.md").read_text()
    assert "ever run on hardware" in readme
    for name, pin in board.slot.pins.items():
        assert "| %s | GPIO %d |" % (name.upper(), pin) in readme
    assert "--product %s " % board.PRODUCT in readme
