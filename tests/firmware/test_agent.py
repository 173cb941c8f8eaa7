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
from lifeboat import boot, running
from lifeboat import line as lines
from lifeboat.agent import Agent  # noqa: E402
from lifeboat.line import FRAME, PIECE  # noqa: E402
from lifeboat.scrub import Scrubber  # noqa: E402
from sim import disk as disks

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
    monkeypatch.setattr(running, "attended", False)

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


def test_identify_says_how_far_the_scrubber_was(backed_up):
    assert backed_up.call("identify")[0]["ok"]["scrub"] is None  # it never ran
    running.attended = False  # as before the session
    scrubber = Scrubber(backed_up.board, start=0)
    while scrubber.passes < 2:
        scrubber.step(0)
    found = backed_up.call("identify")[0]["ok"]["scrub"]
    status = scrubber.status()
    assert (found["units"], found["passes"]) == (status["units"], status["passes"])
    assert 0 < found["left"] <= found["units"]
    assert found["age_ms"] >= 0 and found["bound_s"] >= 0


def test_a_board_whose_flash_fails_can_be_asked(host):
    one = host()
    one.board.flash = lambda: (_ for _ in ()).throw(OSError(EIO, "flash"))
    assert one.call("identify")[0]["ok"]["blocks"] == 0
    assert one.call("code")[0] == {"error": ["flash-failed", "flash"]}
    one.board.flash = lambda: (_ for _ in ()).throw(OSError(EIO))
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


def test_a_block_whose_two_sums_do_not_agree_is_not_programmed(host):
    """I12: its SHA-256 is right, its CRC-32 is not the one that the same manifest states."""
    one = host()
    raw = bytearray(manifest_of(NEW))
    raw[128 + 48 + 4] ^= 1
    raw[-4:] = struct.pack("<I", zlib.crc32(raw[:-4]))
    assert "ok" in one.call("offer", typed=parcel(0, bytes(raw)))[0]
    answer, said = one.call("blocks", typed=parcel(1, block_of(NEW, 1)))
    assert answer == {"error": ["digest-wrong", "1"]} and one.verdict(said) == b"!"
    assert one.flash == OLD and one.board.nor.erases == 0


def test_flash_that_is_write_protected_ends_the_call(host):
    one = offered(host())
    ioctl = one.board.nor.ioctl
    one.board.nor.ioctl = lambda op, arg: 0 if op == 6 else ioctl(op, arg)
    answer, said = one.call("blocks", typed=parcel(1, block_of(NEW, 1)))
    assert answer == {"error": ["flash-locked", "1"]} and one.verdict(said) == b"!"
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
    assert [m["set"] for m in answer["members"]] == ["53" * 16] * 2
    assert [m["region"] for m in answer["members"]] == ["01" * 16, "02" * 16]
    (copy,) = answer["members"][1]["copies"]
    assert copy["known"] and copy["memory"] == 0
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


def test_a_copy_of_a_build_that_never_ran_here_is_told_as_such(backed_up):
    one = backed_up
    pages = bytes(one.board.chip.data[256 : 4 * 256])
    pages += bytes(sim.build_record(4, sim.manifest(_CODE, version="2.0")))
    one.board.chip.data[:] = sim.memory([pages])
    (copy,) = one.call("members")[0]["ok"]["members"][0]["copies"]
    assert copy["version"] == "1.0" and copy["known"] is False


# The memory (format.md section 6)


def remember(one, *pages):
    """Let the memory hold the set of the board's disks, and these records."""
    one.board.remember(one.board.drives)
    count = len(one.board.drives) + 1
    known = [bytes(one.board.chip.data[256 * (1 + i) : 256 * (2 + i)]) for i in range(count)]
    one.board.chip.data[:] = sim.memory(known + list(pages))


def test_what_the_controller_remembers_is_told(host):
    one = host(members=2)
    old, new = manifest_of(OLD), manifest_of(NEW)
    remember(
        one,
        sim.build_record(4, new), sim.build_record(5, old), sim.record(4, 6, sim.build_id(new)),
        sim.record(5, 7, struct.pack("<II", 3, 2)), sim.record(5, 8, struct.pack("<II", 8, 1)),
        sim.record(6, 9, struct.pack("<I", 7)),
    )  # fmt: skip
    first = [d.count - region_of(one) // 512 for d in one.board.drives]
    before = bytes(one.board.chip.data)
    assert one.call("memory")[0]["ok"] == {
        "state": "ok",
        "why": None,
        "blocks": 0,
        "set": "53" * 16,
        "members": [
            {"region": "%02x" % (i + 1) * 16, "lba": first[i], "sectors": region_of(one) // 512,
             "index": i, "disk": "disk%d" % i}
            for i in (0, 1)
        ],
        "builds": [
            {"build": sim.build_id(new).hex(), "counter": 0, "version": "2.0"},
            {"build": sim.build_id(old).hex(), "counter": 0, "version": "1.0"},
        ],
        "rejected": [sim.build_id(new).hex()],
        "failed": [[3, 2], [8, 1]],
        "counter": 7,
        "damaged": False,
        "owner": None,
    }  # fmt: skip
    assert one.board.chip.data == before


@pytest.mark.parametrize(
    "kind, state, why",
    [("none", "none", "memory-none"), ("empty", "empty", None), ("lost", "lost", "memory-lost")],
)
def test_a_memory_that_knows_nothing_says_why(host, kind, state, why):
    one = host(remembers=None if kind == "none" else "nothing")
    if kind == "lost":
        one.board.chip.data[:] = sim.noise(1, len(one.board.chip.data))
    about = one.call("memory")[0]["ok"]
    assert (about["state"], about["why"], about["set"]) == (state, why, None)
    assert about["members"] == about["builds"] == about["rejected"] == about["failed"] == []
    assert about["counter"] == 0 and about["damaged"] is False


@pytest.mark.parametrize("mirror", [0, 1])
def test_rot_in_a_mirror_is_told(host, mirror):
    one = host()
    one.board.chip.data[mirror * sim.MIRROR + 300] ^= 1
    about = one.call("memory")[0]["ok"]
    assert about["state"] == "ok" and about["damaged"] is True and about["set"] == "53" * 16


def test_what_a_power_on_has_learned_is_told_afterwards(host):
    one = host(remembers="nothing")
    assert one.call("memory")[0]["ok"]["state"] == "empty"
    report = one.call("power_on")[0]["ok"]
    assert ["adopted", "", "53" * 16] in report["reasons"]
    about = one.call("memory")[0]["ok"]
    assert (about["state"], about["set"]) == ("ok", "53" * 16)
    assert [b["build"] for b in about["builds"]] == [sim.build_id(manifest_of(OLD)).hex()]
    assert report["set"] == "53" * 16 and report["memory"] == "ok"


def test_an_image_that_leaves_no_room_for_the_memory_has_none(host):
    """Format 1.1: what is in the memory's place then is not the controller's."""
    old = bytes(sim.image(total=49, blocks=6))
    one = host(old, remembers="flash", members=1)
    about = one.call("memory")[0]["ok"]
    assert (about["state"], about["why"], about["blocks"]) == ("none", "memory-none", 8)
    assert one.call("remember", "53" * 16)[0]["error"][0] == "memory-place"
    assert one.flash == old


LARGE = bytes(sim.image(total=49, blocks=6, memory=8))  # mirrors of 16 KiB: four blocks each


def test_a_memory_in_flash_says_where_it_is(host):
    one = host(LARGE, remembers="flash", members=1)
    about = one.call("memory")[0]["ok"]
    assert (about["state"], about["why"], about["blocks"]) == ("empty", None, 8)
    answer = one.call("remember", "53" * 16)[0]["ok"]
    assert (answer["state"], answer["set"]) == ("ok", "53" * 16)
    assert one.call("used", 0, 99)[0]["ok"] == [*range(6), 40, 44, 48]


def test_a_set_is_remembered_without_a_power_on(host):
    one = host(remembers="nothing")
    disks = [dict(disk.sectors) for disk in one.board.drives]
    answer = one.call("remember", "53" * 16)[0]["ok"]
    assert answer["set"] == "53" * 16
    first = [d.count - region_of(one) // 512 for d in one.board.drives]
    assert [(m["region"], m["lba"], m["index"], m["disk"]) for m in answer["members"]] == [
        ("01" * 16, first[0], 0, "disk0"), ("02" * 16, first[1], 1, "disk1"),
    ]  # fmt: skip
    assert [dict(disk.sectors) for disk in one.board.drives] == disks and one.flash == OLD
    assert one.call("memory")[0]["ok"] == answer
    before = bytes(one.board.chip.data)
    assert one.call("remember", "53" * 16)[0]["ok"] == answer and one.board.chip.data == before
    report = one.call("power_on")[0]["ok"]
    assert report["verdict"] == "RUN" and report["reasons"] == []


def test_what_joins_replaces_the_member_of_its_place_and_an_absent_one_stays(host):
    one = host(members=3)
    absent = one.board.drives.pop()
    new, size = one.board.drives[1], region_of(one)
    start = new.count * 512 - size
    unit = bytearray(sim.header(new, start // 512, member=1, members=3))
    unit[32:48] = b"N" * 16
    struct.pack_into("<I", unit, 508, zlib.crc32(unit[:508]))
    for at in (0, size - 8192, size - 4096):
        sim.put(new, start + at, bytes(unit))
    answer = one.call("remember", "53" * 16)[0]["ok"]
    assert [(m["region"][:2], m["index"]) for m in answer["members"]] == [
        ("01", 0), ("4e", 1), ("03", 2),
    ]  # fmt: skip
    one.board.drives.append(absent)
    report = one.call("power_on")[0]["ok"]
    assert report["reasons"] == [] and [m["state"] for m in report["members"]] == ["created"] * 3


def test_regions_that_were_removed_are_forgotten_and_without_any_the_set_is(host):
    one = host()
    blank = dict.fromkeys(one.board.drives[0].sectors, bytes(512))
    one.board.drives[0].sectors.update(blank)
    answer = one.call("remember", "53" * 16, ["01" * 16])[0]["ok"]
    assert [m["region"] for m in answer["members"]] == ["02" * 16]
    answer = one.call("remember", "53" * 16, ["02" * 16])[0]["ok"]
    assert (answer["state"], answer["set"], answer["members"]) == ("ok", None, [])


def test_a_set_that_is_not_here_is_not_remembered(host):
    one = host()
    before = bytes(one.board.chip.data)
    assert one.call("remember", "58" * 16)[0] == {"error": ["set-other", "58" * 16]}
    assert one.board.chip.data == before
    assert host(remembers=None).call("remember", "53" * 16)[0]["error"][0] == "memory-none"


def test_a_region_at_a_place_that_a_person_names_is_remembered(host):
    one = host(members=0, remembers="nothing")
    one.board.drives = [disks.RamDisk("disk0", 4096)]
    sim.make_region(one.board.drives[0], 64)
    assert one.call("remember", "53" * 16)[0]["error"][0] == "set-other"
    answer = one.call("remember", "53" * 16, [], [64])[0]["ok"]
    assert [m["lba"] for m in answer["members"]] == [64]
    assert one.call("power_on")[0]["ok"]["members"][0]["state"] == "created"


def foreign(one, set_id=b"X" * 16):
    """Make the regions of all disks those of another set."""
    for i, disk in enumerate(one.board.drives):
        sim.make_region(disk, member=i, members=len(one.board.drives), set_id=set_id)


def test_a_set_that_a_person_adopts_is_the_own_one_from_then_on(host):
    one = host()
    foreign(one)
    before = [dict(disk.sectors) for disk in one.board.drives]
    report = one.call("power_on")[0]["ok"]
    assert report["verdict"] == "RUN_DEGRADED" and "set-other" in [r[0] for r in report["reasons"]]
    assert [dict(disk.sectors) for disk in one.board.drives] == before
    report = one.call("adopt", "58" * 16)[0]["ok"]
    assert report["verdict"] == "RUN" and report["set"] == "58" * 16
    assert [m["state"] for m in report["members"]] == ["created", "created"]
    assert [r[0] for r in report["reasons"]] == ["adopted"]
    about = one.call("memory")[0]["ok"]
    assert about["set"] == "58" * 16 and [m["index"] for m in about["members"]] == [0, 1]
    report = one.call("power_on")[0]["ok"]
    assert report["verdict"] == "RUN" and report["reasons"] == [] and report["disk_writes"] == 0


def test_a_set_that_is_not_here_is_not_adopted(backed_up):
    before = bytes(backed_up.board.chip.data), [dict(d.sectors) for d in backed_up.board.drives]
    report = backed_up.call("adopt", "58" * 16)[0]["ok"]
    assert "set-other" in [r[0] for r in report["reasons"]]
    assert report["verdict"] == "RUN_DEGRADED" and report["set"] == "53" * 16
    after = bytes(backed_up.board.chip.data), [dict(d.sectors) for d in backed_up.board.drives]
    assert after == before
    assert backed_up.call("power_on")[0]["ok"]["verdict"] == "RUN"


def test_nothing_is_adopted_over_damaged_code_that_can_not_be_repaired(host):
    """The own set is learned beside intact code only."""
    one = host()
    foreign(one)
    one.board.nor.data[5] ^= 1
    before = bytes(one.board.chip.data)
    report = one.call("adopt", "58" * 16)[0]["ok"]
    assert report["verdict"] == "RESCUE" and one.board.chip.data == before
    assert one.call("memory")[0]["ok"]["set"] == "53" * 16


# What a person's patience allows


def test_a_repair_that_failed_too_often_is_tried_again_for_a_person(backed_up):
    one = backed_up
    old = manifest_of(OLD)
    remember(one, sim.build_record(4, old), sim.record(5, 5, struct.pack("<II", 2, 3)))
    one.board.nor.data[2 * BLOCK] ^= 1
    damaged, erases = one.flash, one.board.nor.erases
    report = one.call("power_on")[0]["ok"]
    assert report["verdict"] == "RESCUE" and one.flash == damaged
    assert ["repair-limit", "flash", "2"] in report["reasons"] and one.board.nor.erases == erases
    report = one.call("power_on", True)[0]["ok"]
    assert report["verdict"] == "RUN" and one.flash == OLD
    assert [r[:2] for r in report["repaired"]] == [[2, 1]]
    assert one.call("memory")[0]["ok"]["failed"] == []


@pytest.mark.parametrize("count", [1, 2])
def test_a_repair_that_succeeds_at_last_is_not_counted_as_failed_any_more(backed_up, count):
    one = backed_up
    remember(
        one, sim.build_record(4, manifest_of(OLD)), sim.record(5, 5, struct.pack("<II", 2, count))
    )
    one.board.nor.data[2 * BLOCK] ^= 1
    report = one.call("power_on")[0]["ok"]
    assert report["verdict"] == "RUN" and one.flash == OLD and report["reasons"] == []
    assert [r[:2] for r in report["repaired"]] == [[2, 1]]
    assert all(tries == 0 for _, tries in one.call("memory")[0]["ok"]["failed"])


def test_all_copies_are_read_for_a_person(host):
    """I11: a power-on gives up after 4 x (members x code)."""
    one = host(members=1, slots=16)
    disk = one.board.drives[0]
    slot = sim.slot_size(9, BLOCK)
    start = disk.count * 512 - sim.region_size(slot, 16) + 4096
    # Each block lies in another slot, and the one that was right last is wrong for the next.
    for block in range(CODE_BLOCKS):
        at = start + (15 - block) * slot + 69632 + block * BLOCK
        sim.put(disk, at, block_of(OLD, block))
        one.board.nor.data[block * BLOCK] ^= 1
    damaged = one.flash
    report = one.call("power_on")[0]["ok"]
    assert report["verdict"] == "RESCUE" and one.flash == damaged
    assert "read-limit" in [r[0] for r in report["reasons"]]
    report = one.call("power_on", True)[0]["ok"]
    assert report["verdict"] == "RUN" and one.flash == OLD
    assert "read-limit" not in [r[0] for r in report["reasons"]]


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


@pytest.mark.parametrize("compresses", [True, False])
@pytest.mark.parametrize("sector", [512, 4096])
def test_a_disk_is_read_in_frames(host, sector, compresses, monkeypatch):
    """Also by a MicroPython whose deflate only decompresses, as most ports' does."""
    monkeypatch.setattr(lines, "_COMPRESSES", compresses)
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
    assert (said[:1] == b"z") == compresses


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


@pytest.mark.parametrize(
    "raw, shown",
    [
        (b"1.0" + bytes(21), "1.0"),
        ("1.0-\u03b2".encode() + bytes(18), "1.0-\u03b2"),
        (b"n" * 24, "n" * 24),
        (b"1\xff\x07\0zz", "1??"),
        ("\u00e9".encode() * 2 + b"\xc3", "?????"),
    ],
)
def test_a_text_of_the_memory_is_shown_as_well_as_it_can_be(raw, shown):
    assert lifeboat.agent_disks._text(raw) == shown


def test_no_more_frames_are_under_way_than_the_host_has_room_for(host, monkeypatch):
    """Each acknowledgement is waited for, once the window is full, and all at the end."""
    one = host()
    one.call("disks")
    told = []
    sectors = 6 * FRAME // 512
    monkeypatch.setattr(Line, "send", lambda self, *_: told.append("frame"))
    monkeypatch.setattr(Line, "acknowledged", lambda self, count: told.append(count))
    assert one.call("disk_read", "disk0", 0, sectors)[0] == {"ok": None}
    assert told.count("frame") == 6 and sum(n for n in told if n != "frame") == 6
    under_way = most = 0
    for what in told:
        under_way += 1 if what == "frame" else -what
        most = max(most, under_way)
    assert most == lines.FRAMES and under_way == 0


def test_a_block_that_the_flash_did_not_take_is_not_called_right(host):
    one = offered(host())
    one.board.nor.fail_erase = (3,)
    with pytest.raises(AssertionError):  # the rest of the line is the host's to throw away
        one.call("blocks", typed=parcel(3, block_of(NEW, 3)) + END)
    one.board.nor.fail_erase = ()
    rest = [n for n in range(CODE_BLOCKS) if n != 3]
    one.call("blocks", typed=b"".join(parcel(n, block_of(NEW, n)) for n in rest) + END)
    assert one.call("finish")[0]["error"] == ["flash-verify", "3"]
