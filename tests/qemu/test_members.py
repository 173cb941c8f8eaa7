"""One to several member disks: damaged, missing, new, foreign; updates; rescue."""

import pytest

from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.model.formats import parity_groups
from qemu.rig import DISK, MB, Rig

several = pytest.mark.sata


def states(report):
    return [m["state"] for m in report["members"]]


def generations(report):
    return [m["generation"] for m in report["members"]]


def flip(rig, *blocks):
    """Damage one byte in each of these blocks of the flash."""
    size = rig.spec.block_size
    changes = [(b * size + 77, bytes([rig.good[b * size + 77] ^ 0x40])) for b in blocks]
    assert rig.damage(*changes) == sorted(blocks)


def adopt(rig, drives, set_id):
    """Say at the board's REPL that a set is this controller's own."""
    with rig.board(drives) as board:
        board.power_on_report()
        board.repl(interrupt=True)
        code = "import board\nfrom lifeboat.agent import Agent\nAgent(board).call('adopt', %r)"
        answer, error = board.run(code % set_id)
        assert '"ok"' in answer, answer + error


@several
def test_both_members_and_the_flash_damaged_in_different_blocks(rig8):
    rig8.rot(rig8.drives[0], 3)
    rig8.rot(rig8.drives[1], 9)
    flip(rig8, 3, 9, 20)
    report = rig8.heal()
    first, second = rig8.disk_name(0), rig8.disk_name(1)
    assert report["repaired"] == [[3, 1, second], [9, 1, first], [20, 1, first]]
    assert ["copy-bad", first, "block 3"] in report["reasons"]
    # The copies that were found bad are whole again.
    assert states(report) == ["mended", "mended"]
    assert [rig8.copies(drive) for drive in rig8.drives] == [{"1.0": []}] * 2


@several
def test_every_block_from_the_only_copy_that_has_it(rig8):
    """The flash is erased, and of each block just one disk has a good copy."""
    for block in range(rig8.blocks):
        rig8.rot(rig8.drives[block % 2], block)
    rig8.damage((0, b"\xff" * rig8.spec.flash_size))
    report = rig8.heal()
    sources = {b: d for first, n, d in report["repaired"] for b in range(first, first + n)}
    assert all(sources[b] == rig8.disk_name(1 - b % 2) for b in range(rig8.blocks))


def test_no_good_copy_of_a_block_is_rescue_and_nothing_is_written(rig8, mpremote):
    other = 5 + parity_groups(rig8.blocks)  # of the same group: parity makes one of these
    for drive in rig8.drives:
        rig8.rot(drive, 5)
        rig8.rot(drive, other)
    flip(rig8, 2, 5, other)
    before = rig8.hashes_but_journals()
    report, console = rig8.power_on()
    assert report["verdict"] == "RESCUE"
    assert report["lost"] == [[5, 1], [other, 1]]
    assert "block-lost" in [r[0] for r in report["reasons"]]
    assert "app: running" not in console
    # A technician still gets in, with the ordinary tool.
    out = mpremote(rig8, "exec", "import lifeboat; print(lifeboat.report().data['lost'])")
    assert f"[[5, 1], [{other}, 1]]" in out
    assert rig8.hashes_but_journals() == before


@several
def test_one_disk_pulled(rig8):
    flip(rig8, 1)
    report = rig8.heal(drives=[None, rig8.drives[1]])
    assert report["repaired"] == [[1, 1, rig8.disk_name(1)]]
    assert ["member-missing", "member 1/2", ""] in report["reasons"]
    assert states(report) == ["level", "missing"]


@several
def test_a_new_empty_member_is_brought_level(rig8):
    new = rig8.folder / "new.img"
    with open(new, "wb") as f:
        f.truncate(DISK)
    with Disk(rig8.drives[0]) as old, Disk(new, write=True) as disk:
        header = region.joining(region.find(old).header, disk, region.TAIL, None)
        region.create(disk, header)
    # What came through a disk alone is read, until a person says that it is this controller's.
    report = rig8.heal(drives=[rig8.drives[0], new])
    assert states(report) == ["level", "new", "missing"]
    assert ["member-new", rig8.disk_name(1), ""] in report["reasons"]
    adopt(rig8, [rig8.drives[0], new], report["set"])
    report = rig8.heal(drives=[rig8.drives[0], new])
    assert states(report) == ["level", "level"] and generations(report) == [1, 1]
    flip(rig8, 0)
    assert rig8.heal(drives=[None, new])["repaired"] == [[0, 1, rig8.disk_name(1)]]


@several
def test_a_disk_without_region_is_left_alone(rig8):
    plain = rig8.blank_disk()
    before = rig8.hashes()
    report = rig8.heal()
    assert states(report) == ["level", "level", "no-region"]
    assert rig8.hashes() == before and plain in rig8.drives


@several
def test_a_foreign_set_is_read_but_not_written(rig8, empty_rig, tmp_path_factory):
    other = Rig(rig8.spec, tmp_path_factory.mktemp("foreign"))
    other.make_image(4 * MB, version="7.7", seed=5)
    other.add_disks(1)
    other.power_on()
    before = other.hashes()[1:]
    memory_at, memory_end = rig8.memory_range
    rest = rig8.spec.flash_size - memory_end
    wiped = (0, b"\xff" * memory_at), (memory_end, b"\xff" * rest)
    rig8.damage(*wiped)
    report = rig8.heal(drives=[*rig8.drives, other.drives[0]])
    assert states(report) == ["level", "level", "foreign"]
    assert other.hashes()[1:] == before
    # Its code never ran here: with the own disks gone, too, nothing comes back.
    rig8.damage(*wiped)
    report, _ = rig8.power_on([other.drives[0]])
    assert report["verdict"] == "RESCUE"
    assert {"set-other", "build-unknown"} <= {r[0] for r in report["reasons"]}
    # A wiped chip remembers nothing: of several sets a person has to name one.
    rig8.damage((0, b"\xff" * rig8.spec.flash_size))
    report, _ = rig8.power_on([*rig8.drives, other.drives[0]])
    assert report["verdict"] == "RESCUE" and "set-unclear" in [r[0] for r in report["reasons"]]
    with Disk(rig8.drives[0]) as disk:
        own = region.find(disk).header.set_id.hex()
    adopt(rig8, [*rig8.drives, other.drives[0]], own)
    report = rig8.heal(drives=[*rig8.drives, other.drives[0]])
    assert states(report) == ["level", "level", "foreign"] and report["set"] == own
    assert other.hashes()[1:] == before


def test_an_update_replaces_the_older_slot_and_keeps_the_last_good_copy(rig2):
    versions = ["1.0"]
    for version in ("2.0", "3.0", "4.0"):
        rig2.make_image(2 * MB, version=version, seed=int(version[0]))
        report = rig2.heal()
        assert set(states(report)) == {"created"}
        assert set(generations(report)) == {int(version[0])}
        for drive in rig2.drives:
            assert rig2.copies(drive) == {versions[-1]: [], version: []}
        versions.append(version)
        again = rig2.heal()
        assert set(states(again)) == {"level"} and again["disk_writes"] == 0


def test_going_back_to_an_older_version_makes_it_the_newest_backup(rig2):
    first = rig2.good
    rig2.make_image(2 * MB, version="2.0", seed=2)
    rig2.heal()
    rig2.flash.write_bytes(first)
    rig2.good = first
    report = rig2.heal()
    assert set(states(report)) == {"created"} and set(generations(report)) == {3}
    rig2.damage((0, b"\xff" * rig2.spec.flash_size))
    assert rig2.heal()["version"] == "1.0"


@several
@pytest.mark.parametrize("members", [1, 3, 6])
def test_other_numbers_of_members(empty_rig, members):
    empty_rig.make_image(2 * MB)
    empty_rig.add_disks(members)
    assert states(empty_rig.heal()) == ["created"] * members
    empty_rig.damage((0, b"\xff" * empty_rig.spec.flash_size))
    report = empty_rig.heal()
    assert states(report) == ["level"] * members


def test_damaged_header_copies_are_mended(rig8):
    start, end = rig8.region_range(rig8.drives[0])
    good = {}
    with open(rig8.drives[0], "r+b") as f:
        for offset in (start, end - 4096):
            f.seek(offset)
            good[offset] = f.read(4096)
            f.seek(offset)
            f.write(b"junk" * 1024)
    report = rig8.heal()
    assert states(report) == ["mended", "level"][: len(rig8.drives)]
    with open(rig8.drives[0], "rb") as f:
        for offset, unit in good.items():
            f.seek(offset)
            assert f.read(4096) == unit


def test_a_block_that_is_blank_in_the_image_is_repaired_as_fast_as_others(empty_rig):
    """A blank block is erased and nothing is programmed; that must not look like a hung chip."""
    size = empty_rig.spec.block_size
    empty_rig.make_image(2 * MB, blank_blocks=[3, 4])
    empty_rig.add_disks(1)
    empty_rig.heal()
    assert empty_rig.good[3 * size : 5 * size] == b"\xff" * 2 * size
    flip(empty_rig, 3, 4)
    report = empty_rig.heal()
    assert report["erases"] == 2
    flip(empty_rig, 1, 2)
    other = empty_rig.heal(icount="shift=0,sleep=off")
    flip(empty_rig, 3, 4)
    blank = empty_rig.heal(icount="shift=0,sleep=off")
    assert blank["ms"]["recover"] <= 1.2 * other["ms"]["recover"]
