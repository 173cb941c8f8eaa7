"""The simulator: its devices do what data sheets and measurements say, its sweeps find faults."""

import os
import re
import subprocess
import sys

import pytest

import lifeboat
from cpython_floor import ROOT
from fakes.board import noise
from fakes.rng import Rng
from lifeboat.records import Region
from sim import oracle, sweep
from sim.disk import KEEPS, WRITES, RamDisk
from sim.machine import Geometry
from sim.nor import CODED, ERASES, PROGRAMS, RamFlash, slow_cells
from sim.oracle import Rules
from sim.plugin import SMALL, image_of
from sim.power import Power, PowerCut


def torn(shape, name="erase", old=None, new=None, unit=0, seed=0):
    """Return a flash of two blocks in the first of which an operation was torn."""
    nor = RamFlash(bytearray(old or bytes(8192)), 4096, Power(1, shape), unit=unit, seed=seed)
    with pytest.raises(PowerCut):
        if name == "erase":
            nor.ioctl(6, 0)
        else:
            nor.writeblocks(0, new, 0)
    return nor


def zeros(data):
    return 8 * len(data) - bin(int.from_bytes(data, "little")).count("1")


@pytest.mark.parametrize(("shape", "share"), [("slow", 0.045), ("late", 0.0035)])
def test_an_erase_that_ends_early_leaves_as_many_zeros_as_was_measured(shape, share):
    left = zeros(torn(shape).data[:4096]) / 32768
    assert abs(left - share) < share / 5


def test_it_is_always_the_same_cells_that_are_slow():
    first = [bytes(torn("slow", seed=seed).data) for seed in range(3)]
    assert len(set(first)) == 1
    fast, slow = (int.from_bytes(slow_cells(shape), "little") for shape in ("late", "slow"))
    assert fast & slow == fast
    # Erased bits are not set to 0 by an erase.
    old = noise(1, 4096) + bytes(4096)
    new = torn("slow", old=old).data
    assert all(n & o == o for n, o in zip(new[:4096], old))


@pytest.mark.parametrize("shape", ERASES)
def test_a_torn_erase_reaches_only_its_block_and_clears_nothing(shape):
    old = noise(2, 8192)
    nor = torn(shape, old=old)
    assert bytes(nor.data[4096:]) == old[4096:]
    if shape not in ("half", "weak"):  # these leave cells in any state
        assert all(n & o == o for n, o in zip(nor.data[:4096], old))
    assert bytes(nor.data[:4096]) != b"\xff" * 4096 or nor.marginal


@pytest.mark.parametrize("shape", PROGRAMS)
def test_a_torn_program_clears_no_bit_too_many(shape):
    new = noise(3, 4096)
    nor = torn(shape, "program", b"\xff" * 8192, new)
    assert all(now & byte == byte for now, byte in zip(nor.data, new))
    assert bytes(nor.data[:4096]) != new


def test_weak_cells_read_differently_until_they_are_erased():
    nor = torn("unstable")
    nor.supply = nor.power = Power()
    seen = set()
    for _ in range(20):
        buf = bytearray(4096)
        nor.readblocks(0, buf)
        seen.add(bytes(buf))
    assert len(seen) > 5
    nor.ioctl(6, 0)
    assert nor.data[:4096] == b"\xff" * 4096 and not nor.marginal


@pytest.mark.parametrize("shape", CODED)
def test_a_unit_with_a_code_is_programmed_once(shape):
    nor = torn(shape, "program", b"\xff" * 8192, noise(4, 512), unit=256)
    nor.power = Power()
    with pytest.raises(AssertionError, match="twice"):
        nor.writeblocks(0, bytes(256), 256)
    if shape == "wrong":
        with pytest.raises(OSError):
            nor.readblocks(0, bytearray(256), 256)
    nor.ioctl(6, 0)
    nor.writeblocks(0, bytes(256), 256)
    nor.readblocks(0, bytearray(256), 256)
    assert nor.wear == {0: 1}


@pytest.mark.parametrize("shape", WRITES)
def test_a_torn_write_leaves_sectors_old_or_new_and_one_torn(shape):
    disk = RamDisk("d", 32, Power(1, shape))
    with pytest.raises(PowerCut):
        disk.writeblocks(8, b"n" * 2048)
    disk.settle("all")
    kinds = [disk.sectors.get(lba, bytes(512)) for lba in range(8, 12)]
    new, old = b"n" * 512, bytes(512)
    half = b"n" * 256 + bytes(256)
    assert (
        kinds
        == {
            "half": [new, new, half, old],
            "sector": [half, old, old, old],
            "late": [old, old, old, new],
            "pending": [new, new, old, old],
        }[shape]
    )
    disk.power = Power()
    if shape == "pending":
        with pytest.raises(OSError):
            disk.readblocks(10, bytearray(512))
        disk.writeblocks(10, new)
    disk.readblocks(8, bytearray(2048))


@pytest.mark.parametrize("keep", KEEPS)
def test_a_cache_keeps_what_it_likes_of_what_was_not_flushed(keep):
    disk = RamDisk("d", 32)
    disk.writeblocks(1, b"a" * 512)
    disk.ioctl(3, 0)
    for lba in (1, 2, 3):
        disk.writeblocks(lba, b"b" * 512)
    disk.settle(keep, 7)
    left = [disk.sectors.get(lba, b"-")[:1] for lba in (1, 2, 3)]
    wanted = {"none": "a--", "all": "bbb", "last": "a-b", "first": "bb-"}
    assert keep == "random" or b"".join(left).decode() == wanted[keep]
    assert set(left) <= {b"a", b"b", b"-"}


def test_a_disk_that_lies_has_nothing_after_a_flush():
    disk = RamDisk("d", 32)
    disk.lies = True
    disk.writeblocks(1, b"a" * 512)
    disk.ioctl(3, 0)
    disk.settle("none")
    assert disk.sectors == {}


@pytest.mark.parametrize("kernel", ["xor", "compare"])
def test_what_stands_for_slow_kernels_does_what_they_do(kernel):
    from lifeboat import kernels_plain

    rng = Rng(kernel)
    for size in (1, 5, 64, 4096):
        a, b = bytearray(rng.bytes(size)), bytearray(rng.bytes(size))
        b[: size // 2] = a[: size // 2]
        a[-1] = 0xFF
        results = []
        for module in (kernels_plain, sweep):
            one, counts = bytearray(a), [1, 2, 3, 4]
            getattr(module, kernel)(one, b, *([counts] if kernel == "compare" else []))
            results.append((bytes(one), counts))
        assert results[0] == results[1]


# --- sweeps --------------------------------------------------------------------------------


@pytest.fixture
def first_backup():
    board = SMALL.board(image_of(SMALL, "2.0"))
    rules = Rules({"2.0": bytes(image_of(SMALL, "2.0"))}, frozenset(["2.0"]))
    return board, rules


@pytest.mark.parametrize("geometry", [SMALL, Geometry(4096, 256, 512, 2, 2, "start", "flash", 2)])
def test_a_state_of_a_trace_is_what_a_real_cut_leaves(geometry):
    """The sweep takes states from one run; here the power fails for real."""
    board = geometry.board(image_of(geometry, "1.0"))
    swept = sweep.Sweep(board, lifeboat.power_on, Rules({}, frozenset()))
    points = swept.points()
    assert len(points) > 300
    for point, state in points[::13]:
        assert swept.live(point).key() == state.key(), point


def test_planned_reached_and_passed_are_the_same(first_backup):
    board, rules = first_backup
    tally = sweep.Sweep(board, lifeboat.power_on, rules, first=100, second=50).run()
    assert tally.planned == tally.reached == tally.passed > 120
    assert 20 < tally.states < tally.reached


def test_a_missing_flush_is_found(first_backup, monkeypatch):
    board, rules = first_backup
    board = SMALL.board(image_of(SMALL, "1.0"))
    lifeboat.power_on(board)
    board.nor.data[:] = image_of(SMALL, "2.0")
    rules = rules._replace(keeps=frozenset(["1.0", "2.0"]))
    monkeypatch.setattr(Region, "flush", lambda self: None)
    with pytest.raises(sweep.Failed, match="power cut"):
        sweep.Sweep(board, lifeboat.power_on, rules).run()


def test_the_oracle_finds_what_is_lost(first_backup):
    board, rules = first_backup
    report = lifeboat.power_on(board)
    held = [oracle.whole_copies(disk) for disk in board.drives]
    assert held == [["2.0"]]
    oracle.after(rules, board, report, held)
    outside = ({1: board.drives[0].sectors[1]},)
    with pytest.raises(AssertionError, match="not lifeboat's"):
        board.drives[0].sectors[1] = b"x" * 4096
        oracle.after(rules._replace(outside=outside), board, report, held)
    with pytest.raises(AssertionError, match="flash"):
        board.nor.data[9] ^= 1
        oracle.after(rules, board, report, held)
    board.nor.data[9] ^= 1
    at, first, _, _, area = oracle.region(board.drives[0])
    board.drives[0].sectors[(at + first + 4096 + area) // 4096] = bytes(4096)
    with pytest.raises(AssertionError, match="lost its copies"):
        oracle.before(rules, board, held)


def test_a_failed_sweep_says_how_to_do_just_that_cut_again(tmp_path):
    """A fault in the firmware: blocks are not flushed before the record that commits them."""
    folder = tmp_path / "firmware"
    subprocess.run(["cp", "-r", ROOT / "firmware", folder], check=True)
    path = folder / "lifeboat" / "creating.py"
    text, flush = path.read_text(), "    region.flush()\n"
    assert text.count(flush) == 1
    path.write_text(text.replace(flush, ""))
    environment = dict(
        os.environ, LIFEBOAT_FIRMWARE=str(folder), LIFEBOAT_CACHE=str(tmp_path), LIFEBOAT_CUT=""
    )
    test = "tests/firmware/test_power_loss.py::test_the_backup_of_another_build"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    cut, nodeid = re.search(r"LIFEBOAT_CUT=(\S+) ./lifeboat test '(.+)'", done.stdout).groups()
    images = re.search(r"its images: (.+)", done.stdout)[1]
    assert {"flash.img", "disk0.img", "memory.img"} <= set(os.listdir(images))
    environment["LIFEBOAT_CUT"] = cut
    command[-1] = nodeid
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 1 and f"power cut {cut}:" in again.stdout
