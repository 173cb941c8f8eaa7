"""I1 to I13 after a power cut at every instant of every flow, and again in what follows.

tests/sim/plugin.py runs each of these in the geometries of its matrix.
"""

from errno import EIO

import pytest

import lifeboat
from fakes import board as boards
from fakes import updates
from lifeboat import partitioning, running, trial, update
from lifeboat.scrub import REPAIR, Scrubber
from sim import oracle
from sim.disk import RamDisk
from sim.plugin import image_of
from sim.power import Power

BOTH = ("1.0", "2.0")
SET = b"S" * 16


def run(board):
    """Power on, as a state on the way to another one needs it."""
    board.supply(Power())
    report = lifeboat.power_on(board)
    assert report.runs, report.data
    running.attended = trial.staging = False
    return report


def program(board, image):
    """Program an image from outside; a memory in the flash stays."""
    blocks = int.from_bytes(image[-board.BLOCK_SIZE + 104 :][:2], "little")
    end = len(image) - (1 + blocks) * board.BLOCK_SIZE
    board.nor.data[:end] = image[:end]
    board.nor.data[-board.BLOCK_SIZE :] = image[-board.BLOCK_SIZE :]
    for at in range(0, len(image), board.nor.unit or len(image)):
        if board.nor.unit and (at < end or at >= len(image) - board.BLOCK_SIZE):
            blank = board.nor.data[at : at + board.nor.unit] == b"\xff" * board.nor.unit
            (board.nor.done.discard if blank else board.nor.done.add)(at)


def ran(geometry, *versions, **kwargs):
    """Return a board on which these versions ran, one after the other."""
    board = geometry.board(image_of(geometry, versions[0]), **kwargs)
    for version in versions:
        program(board, image_of(geometry, version))
        run(board)
    return board


def spoil(board, block, count=1):
    """Let blocks of the code flash rot: a bit flips in each."""
    for n in range(block, block + count):
        board.nor.data[n * board.BLOCK_SIZE + 9] ^= 4


def spoil_copy(disk, slot, block, size):
    """Let the first sector of a block of a copy rot."""
    at, first, _, slot_size, area = oracle.region(disk)
    at += first + slot * slot_size + 4096 + area + block * size
    boards.put(disk, at, b"rot!" * (disk.size // 4))


# --- backup and recovery -------------------------------------------------------------------


def bare(geometry):
    return geometry.board(image_of(geometry, "2.0"))


@pytest.mark.power_loss(given=bare, runs=("2.0",))
def test_the_first_backup(board):
    lifeboat.power_on(board)


def programmed(geometry):
    board = ran(geometry, "1.0")
    program(board, image_of(geometry, "2.0"))
    return board


@pytest.mark.power_loss(given=programmed, runs=("2.0",), keeps=BOTH)
def test_the_backup_of_another_build(board):
    lifeboat.power_on(board)


def wiped(geometry):
    board = ran(geometry, "2.0")
    for block in (*range(geometry.code), geometry.total - 1):
        board.nor.ioctl(6, block)
    return board


@pytest.mark.power_loss(given=wiped, runs=("2.0",))
def test_the_recovery_of_all_code(board):
    lifeboat.power_on(board)


def with_a_bad_block(geometry):
    board = ran(geometry, "1.0", "2.0")
    spoil(board, 1)
    return board


@pytest.mark.power_loss(given=with_a_bad_block, runs=("2.0",))
def test_the_repair_of_a_block(board):
    lifeboat.power_on(board)


def rotten(geometry):
    """Flash and each copy have damage, in different blocks where there are two members."""
    board = ran(geometry, "1.0", "2.0")
    spoil(board, 0)
    for disk in board.drives[1:]:
        spoil_copy(disk, 1, 0, geometry.erase)
    spoil_copy(board.drives[0], 1, 1, geometry.erase)
    return board


@pytest.mark.power_loss(given=rotten, runs=("2.0",), keeps=BOTH, covered=False)
def test_the_repair_of_flash_and_copies(board):
    lifeboat.power_on(board)


def headless(geometry):
    board = ran(geometry, "2.0")
    for disk in board.drives:
        at = oracle.region(disk)[0]
        boards.put(disk, at, bytes(4096))
    return board


@pytest.mark.power_loss(given=headless, runs=("2.0",))
def test_the_mending_of_headers(board):
    lifeboat.power_on(board)


def lost_everywhere(geometry):
    """A block is bad in flash and in every copy: parity makes it again."""
    board = ran(geometry, "1.0", "2.0")
    spoil(board, 1)
    for disk in board.drives:
        spoil_copy(disk, 1, 1, geometry.erase)
    return board


@pytest.mark.power_loss(given=lost_everywhere, runs=BOTH, keeps=("1.0",), covered=False)
def test_a_block_from_parity(board):
    lifeboat.power_on(board)


def journalled(geometry):
    """Journals of two pages, full of findings; and there is another one."""
    board = ran(geometry, "2.0", journal=2)
    for _ in range(4):
        spoil(board, 1)
        run(board)
    spoil(board, 0, 2)
    return board


@pytest.mark.power_loss(given=journalled, runs=("2.0",))
def test_the_journal(board):
    lifeboat.power_on(board)


# --- disks that misbehave ------------------------------------------------------------------


def with_a_liar(geometry):
    """The first member says that it has flushed, and has not."""
    board = programmed(geometry)
    board.drives[0].lies = True
    return board


@pytest.mark.power_loss(
    given=with_a_liar,
    runs=("2.0",),
    keeps=BOTH,
    steady=False,
    fits=lambda geometry: geometry.members > 1,
)
def test_a_member_that_lies_about_flushes(board):
    lifeboat.power_on(board)


@pytest.mark.power_loss(given=with_a_bad_block, runs=("2.0",), keeps=BOTH, covered=False)
def test_reads_that_fail_now_and_then(board):
    reads = 0

    def now_and_then(op, lba, count):
        nonlocal reads
        reads += op == "read"
        return EIO if op == "read" and reads % 5 == 0 else None

    for disk in board.drives:
        disk.fault = now_and_then
    try:
        lifeboat.power_on(board)
    finally:
        for disk in board.drives:
            disk.fault = None


# --- an update -----------------------------------------------------------------------------

UPDATE = {"runs": BOTH, "keeps": ("1.0",), "steady": False, "covered": False}


def running_old(geometry):
    board = ran(geometry, "1.0")
    board.GEOMETRY = geometry
    return board


def armed(geometry):
    board = running_old(geometry)
    board.supply(Power())
    updates.stage_new(board, image_of(geometry, "2.0"))
    trial.staging = False
    return board


def tried(geometry):
    board = armed(geometry)
    run(board)
    return board


def taken_back(geometry):
    board = tried(geometry)
    updates.trying(board).turn("rejected")
    return board


def spent(geometry):
    board = tried(geometry)
    run(board)
    run(board)
    return board


@pytest.mark.power_loss(given=running_old, **UPDATE)
def test_staging(board):
    updates.stage_new(board, image_of(board.GEOMETRY, "2.0"))


@pytest.mark.power_loss(given=armed, **UPDATE)
def test_the_first_start_of_a_trial(board):
    lifeboat.power_on(board)


@pytest.mark.power_loss(given=tried, **UPDATE)
def test_confirming(board):
    trial.confirm(board)


@pytest.mark.power_loss(given=tried, **UPDATE)
def test_rejecting(board):
    trial.reject("no link", board)


@pytest.mark.power_loss(given=taken_back, **UPDATE)
def test_going_back(board):
    lifeboat.power_on(board)


@pytest.mark.power_loss(given=spent, **UPDATE)
def test_going_back_when_starts_are_spent(board):
    lifeboat.power_on(board)


def two_builds(geometry):
    return ran(geometry, "1.0", "2.0")


@pytest.mark.power_loss(given=two_builds, runs=BOTH)
def test_rollback_by_a_person(board):
    update.rollback(board, "1.0")


# --- the scrubber --------------------------------------------------------------------------


@pytest.mark.power_loss(given=two_builds, runs=("2.0",), keeps=BOTH, covered=False)
def test_what_the_scrubber_mends(board):
    supply = board.power
    board.supply(Power())
    lifeboat.power_on(board)
    scrubber = Scrubber(board, policy=REPAIR, start=0)
    spoil(board, 0)
    board.nor.touched(0, len(board.nor.data))
    spoil_copy(board.drives[0], 1, 1, board.BLOCK_SIZE)
    board.supply(supply)
    for _ in range(10000):
        if scrubber.passes:
            return
        scrubber.step(100)
    raise AssertionError("no pass ends")


# --- the memory and the region -------------------------------------------------------------


def full_memory(geometry):
    """The next record makes the memory begin anew, in one mirror after the other."""
    board = ran(geometry, "2.0")
    board.supply(Power())
    for n in range(200):
        kept = bytes(board.chip.data), set(board.chip.done), board.chip.erases
        updates.memory_of(board).add([(4, (bytes([n]) * 32,))])  # a rejected build
        if board.chip.erases != kept[2]:
            board.chip.data[:], board.chip.done = kept[0], kept[1]
            return board
    raise AssertionError("the memory takes everything")


@pytest.mark.power_loss(
    given=full_memory, runs=("2.0",), fits=lambda geometry: geometry.memory == "chip"
)
def test_a_memory_that_begins_anew(board):
    updates.memory_of(board).add([(4, (b"r" * 32,))])


def blank_disks(geometry):
    """No regions yet, and nothing on the disks where somebody's data could be."""
    board = geometry.board(image_of(geometry, "1.0"))
    size = partitioning.region_size(len(board.nor.data), geometry.slots, geometry.erase)
    board.drives = [
        RamDisk(f"disk{i}", (size + (1 << 18)) // geometry.sector, board.power, geometry.sector)
        for i in range(geometry.members)
    ]
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    board.chip.done = set()
    for disk in board.drives:
        lba = (1 << 17) // geometry.sector + 3
        disk.sectors[lba] = b"user" * (geometry.sector // 4)
    return board


@pytest.mark.power_loss(
    given=blank_disks,
    runs=("1.0",),
    covered=False,
    steady=False,  # the set is taken for its own first, and mended at the power-on after that
    fits=lambda geometry: geometry.memory == "chip" and geometry.erase <= 65536,
)
def test_reserving_regions(board):
    partitioning.create(board, [disk.name for disk in board.drives])
    running.attended = False


def forgotten(geometry):
    """The memory was lost: a person says which set is the board's own."""
    board = ran(geometry, "1.0")
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    board.chip.done = set()
    return board


@pytest.mark.power_loss(
    given=forgotten, runs=("1.0",), fits=lambda geometry: geometry.memory == "chip"
)
def test_adopting_a_set(board):
    partitioning.adopt(board, SET.hex())
    running.attended = False


def ringed(geometry):
    """Regions as the product makes them, with a ring for evidence; a block has rotten."""
    board = blank_disks(geometry)
    partitioning.create(board, [disk.name for disk in board.drives])
    running.attended = False
    run(board)
    spoil(board, 1)
    return board


@pytest.mark.power_loss(
    given=ringed,
    runs=("1.0",),
    fits=lambda geometry: geometry.memory == "chip" and geometry.erase <= 65536,
)
def test_evidence_before_a_repair(board):
    lifeboat.power_on(board)
