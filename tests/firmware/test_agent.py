"""The board's end of provisioning, spoken to as docs/provisioning.md says."""

import json
import struct
import zlib
from errno import EIO

import machine
import pytest

import fakes.deflate  # noqa: F401 - the agent needs it
import lifeboat
from fakes import board as sim
from fakes import disk as disks
from lifeboat import boot
from lifeboat import line as lines
from lifeboat.agent import Agent  # noqa: E402
from lifeboat.line import FRAME, PIECE  # noqa: E402
from lifeboat.scrub import Scrubber  # noqa: E402

BLOCK = sim.ERASE
OLD = bytes(sim.image(seed=1, version="1.0"))
CODE_BLOCKS = 6
MANIFEST_AT = 8 * BLOCK
# Code that can be compressed, each block another.
_CODE = b"".join(sim.noise(10 + i, 512) * (BLOCK // 512) for i in range(CODE_BLOCKS))
NEW = _CODE.ljust(MANIFEST_AT, b"\xff") + sim.manifest(_CODE, version="2.0").ljust(BLOCK, b"\xff")


class Line(lines.Line):
    """What the host has typed, and what it gets."""

    def __init__(self):
        self.typed = b""
        self.said = b""
        self.guarded = False
        self.drained = False

    def guard(self, on):
        self.guarded = on

    def read(self, buf):
        assert len(self.typed) >= len(buf), "the agent waits for more than the protocol says"
        buf[:] = self.typed[: len(buf)]
        self.typed = self.typed[len(buf) :]

    def write(self, data):
        self.said += bytes(data)

    def drain(self):
        self.typed, self.drained = b"", True


def number(value):
    return bytes((64 + value // 64, 64 + value % 64))


def piece(data):
    threes = [i for i, byte in enumerate(data) if byte == 3]
    places = b"".join(map(number, threes))
    return number(len(data)) + number(len(threes)) + places + data.replace(b"\x03", b"?")


def parcel(index, data, packed=True, crc=None):
    payload = zlib.compress(data) if packed else data
    packed = len(payload) < len(data)
    payload = payload if packed else data
    crc = zlib.crc32(data) if crc is None else crc
    head = struct.pack("<IIII", index, len(data), len(payload) if packed else 0, crc)
    pieces = [payload[at : at + PIECE] for at in range(0, len(payload), PIECE)]
    return b"".join(map(piece, [head, *pieces]))


END = piece(bytes(16))


class Host:
    """An agent of a board out of fakes, and the host at its line."""

    def __init__(self, content=OLD, **kwargs):
        self.board = sim.SimBoard(bytearray(content), **kwargs)
        self.line = Line()
        self.agent = Agent(self.board, self.line)

    def call(self, capsys, name, *args, typed=b""):
        """(its answer, what it said before)."""
        self.line.typed, self.line.said = typed, b""
        capsys.readouterr()
        self.agent.call(name, *args)
        assert self.line.typed == b"" and not self.line.guarded
        last = capsys.readouterr().out.strip().split("\n")[-1]
        assert last.startswith("agent: ")
        return json.loads(last[7:]), self.line.said

    @property
    def flash(self):
        return bytes(self.board.nor.data)

    def verdict(self, said):
        """What it said to parcels: all but the acknowledgements of pieces."""
        return said.replace(b"+", b"")


@pytest.fixture
def host(capsys, monkeypatch):
    monkeypatch.setattr(boot, "attended", False)

    def make(*args, **kwargs):
        one = Host(*args, **kwargs)
        call = one.call
        one.call = lambda *a, **k: call(capsys, *a, **k)
        return one

    return make


@pytest.fixture
def backed_up(host):
    one = host()
    assert lifeboat.power_on(one.board).verdict == "RUN"
    return one


def manifest_of(content):
    start = content[MANIFEST_AT:]
    return start[: struct.unpack_from("<I", start, 12)[0]]


def block_of(content, index):
    return content[index * BLOCK : (index + 1) * BLOCK]


# What is here


def test_identify_says_which_board_this_is(backed_up):
    answer, _ = backed_up.call("identify")
    about = answer["ok"]
    assert about["agent"] == 1 and about["product"] == "sim"
    assert (about["block_size"], about["blocks"]) == (BLOCK, 9)
    assert about["report"]["verdict"] == "RUN"


def test_a_board_whose_flash_fails_can_be_asked(host):
    one = host()
    one.board.flash = lambda: (_ for _ in ()).throw(OSError(EIO, "flash"))
    assert one.call("identify")[0]["ok"]["blocks"] == 0
    assert one.call("code")[0] == {"error": ["flash-failed", str(EIO)]}


def test_compare_names_the_blocks_that_differ(host):
    damaged = bytearray(OLD)
    damaged[2 * BLOCK + 7] ^= 1
    damaged[5 * BLOCK] ^= 128
    one = host(damaged)
    about = one.call("code")[0]["ok"]
    assert (about["version"], about["blocks"], about["blank"]) == ("1.0", CODE_BLOCKS, True)
    assert one.call("compare", 0, 99)[0] == {"ok": [2, 5]}
    assert one.call("compare", 1, 2)[0] == {"ok": [2]}
    assert one.call("compare", 3, 2)[0] == {"ok": []}


def test_a_flash_without_manifest_says_so(host):
    answer, _ = host(b"\xff" * len(OLD)).call("code")
    assert answer["error"][0] == "manifest-magic"


# New code


def offered(one, content=NEW):
    answer, said = one.call("offer", typed=parcel(0, manifest_of(content)))
    assert one.verdict(said) == b"=" and answer["ok"]["version"] == "2.0"
    return one


@pytest.mark.parametrize("packed", [True, False])
def test_new_code_comes_by_blocks_and_its_manifest_last(host, packed):
    one = offered(host())
    assert one.call("compare", 0, 99)[0]["ok"] == list(range(CODE_BLOCKS))
    for index in range(CODE_BLOCKS):
        assert one.call("finish")[0]["error"][0] == "flash-verify"
        assert one.flash[MANIFEST_AT:] == OLD[MANIFEST_AT:]
        typed = parcel(index, block_of(NEW, index), packed) + END
        answer, said = one.call("blocks", typed=typed)
        assert answer == {"ok": 1} and one.verdict(said) == b"="
    assert one.call("finish")[0] == {"ok": True}
    assert one.flash == NEW
    erases = one.board.nor.erases
    assert one.call("finish")[0] == {"ok": False} and one.board.nor.erases == erases


def test_nothing_goes_into_flash_that_the_manifest_does_not_state(host):
    """I1: content, place and size of a block are the manifest's, or it is not taken."""
    one = offered(host())
    good = block_of(NEW, 1)
    for typed in (
        parcel(1, bytes(BLOCK)),
        parcel(2, good),
        parcel(CODE_BLOCKS, good),
        parcel(0xFFFFFFFF, good),
        parcel(1, good[:-1]),
        parcel(1, good, crc=1),
    ):
        answer, said = one.call("blocks", typed=typed + END)
        assert answer == {"ok": 0} and one.verdict(said) == b"~"
    assert one.flash == OLD and one.board.nor.erases == 0


def test_a_block_that_arrives_damaged_is_taken_the_next_time(host):
    one = offered(host())
    good = parcel(3, block_of(NEW, 3))
    torn = bytearray(good)
    torn[len(torn) // 2] ^= 0x55
    torn = bytes(torn).replace(b"\x03", b"?")
    answer, said = one.call("blocks", typed=torn + good + END)
    assert answer == {"ok": 1} and one.verdict(said) == b"~="
    assert block_of(one.flash, 3) == block_of(NEW, 3)


def test_a_manifest_for_another_board_is_refused_and_forgotten(host):
    for raw, code in (
        (sim.manifest(_CODE, product="other"), "manifest-product"),
        (sim.manifest(_CODE, block=2 * BLOCK), "manifest-board"),
        (sim.manifest(NEW + NEW), "manifest-board"),
        (b"spam" * 100, "manifest-magic"),
    ):
        one = host()
        answer, said = one.call("offer", typed=parcel(0, raw))
        assert answer["error"][0] == code and one.verdict(said) == b"!"
        with pytest.raises(AttributeError):  # no manifest, no blocks
            one.call("blocks", typed=parcel(0, block_of(NEW, 0)))
        assert one.flash == OLD


def test_flash_that_does_not_take_a_block_ends_the_call(host):
    one = offered(host())
    one.board.nor.stuck = (BLOCK + 5,)
    one.board.nor.data[BLOCK + 5] = block_of(NEW, 1)[5] ^ 1
    answer, said = one.call("blocks", typed=parcel(1, block_of(NEW, 1)))
    assert answer == {"error": ["flash-verify", "1"]} and one.verdict(said) == b"!"
    assert one.call("finish")[0]["error"][0] == "flash-verify"


def test_a_scrubber_on_a_timer_leaves_new_code_alone(host):
    one = host(journal=4)
    assert lifeboat.power_on(one.board).verdict == "RUN"
    scrubber = Scrubber(one.board)
    one.agent = Agent(one.board, one.line)
    offered(one)
    one.call("blocks", typed=parcel(1, block_of(NEW, 1)) + END)
    assert not scrubber.step(1000)
    assert block_of(one.flash, 1) == block_of(NEW, 1)


def test_a_soft_reset_amid_new_code_inspects_anew(backed_up, monkeypatch):
    monkeypatch.setattr(machine, "reset_cause", lambda: machine.SOFT_RESET)
    one, erases = backed_up, backed_up.board.nor.erases
    assert boot.start(one.board).verdict == "RUN" and one.board.nor.erases == erases
    offered(one)
    one.call("blocks", typed=parcel(1, block_of(NEW, 1)) + END)
    assert one.flash != OLD
    found = boot.start(one.board)
    assert [r[:2] for r in found.data["repaired"]] == [[1, 1]] and one.flash == OLD
    one.call("drill", 3)
    assert boot.start(one.board).data["repaired"] and one.flash == OLD


# The line


@pytest.mark.parametrize("packed", [True, False])
def test_bytes_of_ctrl_c_come_through(host, packed):
    one = host(members=1)
    one.call("disks")
    one.call("disk_allow", "disk0", [[8, 16]])
    data = bytes(range(256)) * 2 + b"\x03" * 1024
    answer, _ = one.call("disk_write", "disk0", 8, typed=parcel(0, data, packed) + END)
    assert answer == {"ok": None}
    one.call("disk_flush", "disk0")
    assert sim.get(one.board.drives[0], 8 * 512, len(data)) == data


def test_ctrl_c_in_what_was_typed_ends_the_call(host):
    one = offered(host())
    one.line.typed = b"\x03\x03\r\x01 and more"
    with pytest.raises(KeyboardInterrupt):
        one.agent.call("blocks")
    assert one.line.drained and not one.line.guarded


@pytest.mark.parametrize(
    "typed",
    [
        b"spam spam spam!!",
        number(4095) + number(0),
        number(4) + number(5),
        number(16) + number(1) + number(16) + bytes(16),
        piece(bytes(15)),
        piece(struct.pack("<IIII", 0, BLOCK + 1, 0, 0)),
        piece(struct.pack("<IIII", 0, 100, 101, 0)),
        piece(struct.pack("<IIII", 0, 10, 0, 0)) + piece(bytes(11)),
    ],
)
def test_what_is_no_parcel_ends_the_call_and_is_kept_from_the_prompt(host, typed):
    one = offered(host())
    one.line.typed = typed + b"import os"
    with pytest.raises(ValueError):
        one.agent.call("blocks")
    assert one.line.drained and one.flash == OLD


# Backups and drill


def test_members_and_copies_are_described_and_checked(backed_up):
    answer = backed_up.call("members")[0]["ok"]
    assert [(m["disk"], m["state"]) for m in answer["members"]] == [
        ("disk0", "level"), ("disk1", "level"),
    ]  # fmt: skip
    (copy,) = answer["members"][1]["copies"]
    assert (copy["slot"], copy["generation"], copy["version"]) == (0, 1, "1.0")
    assert backed_up.call("check_copy", "disk1", 0, 0, 99)[0] == {"ok": []}
    rot(backed_up, 1, 4)
    assert backed_up.call("check_copy", "disk1", 0, 0, 99)[0] == {"ok": [4]}
    assert backed_up.call("check_copy", "disk1", 0, 0, 4)[0] == {"ok": []}
    assert backed_up.call("check_copy", "disk0", 0, 0, 99)[0] == {"ok": []}


def rot(one, disk, block):
    """Damage a block of the copy in slot 0."""
    drive = one.board.drives[disk]
    at = drive.count * 512 - region_of(one) + 4096 + 69632 + block * BLOCK
    sim.put(drive, at, b"\xa5" * 512)


def region_of(one):
    return sim.region_size(sim.slot_size(9, BLOCK))


def test_a_drill_erases_one_block_that_every_member_has(backed_up):
    assert backed_up.call("drill", 3)[0] == {"ok": 2}
    want = bytearray(OLD)
    want[3 * BLOCK : 4 * BLOCK] = b"\xff" * BLOCK
    assert backed_up.flash == bytes(want)
    report = backed_up.call("power_on")[0]["ok"]
    assert [r[:2] for r in report["repaired"]] == [[3, 1]] and backed_up.flash == OLD


def test_a_drill_is_refused_without_a_good_copy_on_every_member(backed_up, host):
    rot(backed_up, 1, 3)
    assert backed_up.call("drill", 3)[0] == {"error": ["backup-none", "disk1"]}
    assert host(members=0).call("drill", 3)[0]["error"][0] == "backup-none"
    assert host().call("drill", 3)[0]["error"][0] == "backup-none"
    assert backed_up.flash == OLD
    backed_up.board.nor.data[0] ^= 1
    assert backed_up.call("drill", 3)[0]["error"][0] == "flash-changed"


# Disks


def frames(said, size):
    """The content of frames, by the words of the protocol."""
    data, at = b"", 0
    while len(data) < size:
        room = min(FRAME, size - len(data))
        kind = said[at : at + 1]
        length, crc = int(said[at + 1 : at + 5], 16), int(said[at + 5 : at + 13], 16)
        payload = said[at + 13 : at + 13 + length]
        at += 13 + length
        if kind == b"z":
            payload = zlib.decompress(payload)
        content = {b"0": bytes(room), b"z": payload, b"r": payload}[kind]
        assert len(content) == room and zlib.crc32(content) == crc
        data += content
    assert at == len(said)
    return data


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_disk_is_read_in_frames(host, sector):
    one = host(members=1, sector=sector, extra=64)
    drive = one.board.drives[0]
    sim.put(drive, sector, bytes(range(256)) * (sector // 256))
    sim.put(drive, 3 * sector, sim.noise(9, 6 * sector))
    about = one.call("disks")[0]["ok"]
    assert [(a["disk"], a["sectors"], a["lba_size"]) for a in about] == [
        ("disk0", drive.count, sector)
    ]
    count = 40
    acks = b"+" * -(-count * sector // FRAME)
    answer, said = one.call("disk_read", "disk0", 0, count, typed=acks)
    assert answer == {"ok": None}
    assert frames(said, count * sector) == sim.get(drive, 0, count * sector)


def test_a_disk_that_fails_is_told(host):
    one = host()
    one.call("disks")
    one.board.drives[0].fault = disks.dead
    answer, said = one.call("disk_read", "disk0", 0, 1)
    assert answer["error"][0] == "disk-failed" and said == b"!"
    one.board.drives[1].fault = lambda op, lba, count: EIO
    two = Agent(one.board, one.line)
    one.agent = two
    about = one.call("disks")[0]["ok"]
    assert about[1] == {"disk": "disk1", "error": "disk-failed"}


@pytest.mark.parametrize("lba, count", [(7, 1), (15, 2), (16, 1), (0, 1), (7, 10)])
def test_a_disk_is_written_only_where_it_was_allowed(host, lba, count):
    one = host()
    one.call("disks")
    one.call("disk_allow", "disk0", [[8, 8], [20, 4]])
    drive = one.board.drives[0]
    typed = parcel(0, b"x" * 512 * count)
    for name in ("disk0", "disk1"):
        answer, said = one.call("disk_write", name, lba, typed=typed)
        assert answer["error"][0] == "disk-in-use" and one.verdict(said) == b"!"
    assert drive.writes == 0
    answer, _ = one.call("disk_write", "disk0", 20, typed=parcel(3, b"y" * 512) + END)
    assert answer == {"ok": None} and drive.writes == 1
    assert one.call("disk_allow", "disk0", [])[0] == {"ok": None}
    answer, _ = one.call("disk_write", "disk0", 20, typed=parcel(0, b"x" * 512))
    assert answer["error"][0] == "disk-in-use"


def test_the_first_sector_that_is_not_zero_is_found(host):
    one = host(members=1, extra=400)
    one.call("disks")
    sim.put(one.board.drives[0], 300 * 512, bytes(511) + b"\x01")
    for lba, count, want in ((0, 400, 300), (300, 1, 300), (301, 99, None), (0, 300, None)):
        assert one.call("disk_first_nonzero", "disk0", lba, count)[0] == {"ok": want}


# For people


def test_show_prints_what_is_damaged(backed_up, capsys):
    backed_up.board.nor.data[2 * BLOCK] ^= 1
    rot(backed_up, 0, 4)
    capsys.readouterr()
    backed_up.agent.show()
    lines = capsys.readouterr().out.splitlines()
    assert any(x.startswith("code 1.0") and "1 damaged of 6 blocks [2]" in x for x in lines)
    assert any(x.startswith("disk0 slot 0") and "1 damaged of 6 blocks [4]" in x for x in lines)
    assert any(x.startswith("disk1 slot 0") and "0 damaged" in x for x in lines)
    backed_up.board.nor.data[:] = b"\xff" * len(OLD)
    backed_up.agent.show()
    assert "code: none, manifest-magic" in capsys.readouterr().out


def test_log_prints_the_journal(host, capsys):
    one = host(journal=4)
    lifeboat.power_on(one.board)
    capsys.readouterr()
    one.agent.log()
    out = capsys.readouterr().out
    assert "disk0\n" in out and "  1 power-on RUN 1.0" in out
    assert "  1 created - disk0 1 6" in out
