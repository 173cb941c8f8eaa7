"""Inspection during operation, on the boards: bounded steps, repairs, patrol read, a busy disk."""

import time
from contextlib import contextmanager

import pytest

from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import journal, region
from qemu.rig import MB

MS = 20
ROUNDS = 8  # a bound that is broken is so in each of them

START = """
import asyncio, board, lifeboat, time
from lifeboat.scrub import *
scrubber = Scrubber(board)

def rot(offset, data):
    # Programming without an erase clears bits, as rot may do.
    dev = board.flash()
    size = dev.ioctl(5, 0)
    dev.writeblocks(offset // size, data, offset % size)

def full_pass(ms=20):
    before = scrubber.passes
    while scrubber.passes == before:
        scrubber.step(ms)
    print("pass", scrubber.passes - before)

def events():
    for entry in lifeboat.report().data.get("operation", ()):
        print("event", *entry)
"""

STEPS = """
times = []
for ms in (5, 15):
    for _ in range(15):
        scrubber.step(ms)  # the size of its pieces settles
    for _ in range(60):
        t = time.ticks_us()
        scrubber.step(ms)
        times.append(time.ticks_diff(time.ticks_us(), t) / ms / 1000)
times.sort()
print(times[len(times) // 2], times[-1])
"""

# The same while a damaged block of a copy is found, told and mended.
FINDING = """
def mended():
    told = lifeboat.report().data.get("operation", ())
    return told and told[-1][0] == "mended" and not scrubber._patrol.findings.news

for _ in range(30):
    scrubber.step(5)
lifeboat.report().data.pop("operation", None)
member = scrubber._patrol._members[0]
(copy,) = [copy for copy in member.copies if copy.commit]
at = member.region.block_at(copy.slot, 1, board.BLOCK_SIZE)
buf = bytearray(4096)
member.region.read(at, buf)
buf[5] ^= 1
member.region.write(at, buf)
member.region.flush()
times = []
while not mended():
    t = time.ticks_us()
    scrubber.step(5)
    times.append(time.ticks_diff(time.ticks_us(), t) / 5000)
times.sort()
print(times[len(times) // 2], times[-1])
"""

# An application with a FAT file system on the disk, beside a scrubber or alone. Prints how long a
# turn of it takes at most, without the time that the disk needs.
BUSY = """
import os, vfs
from lifeboat.userarea import user_area
area = user_area(board.disks()[0])
vfs.VfsFat.mkfs(area)
vfs.mount(vfs.VfsFat(area), "/user")
data = bytes(range(256)) * 16

async def application(turns):
    worst = 0
    for i in range(turns):
        name = "/user/f%%d" %% (i %% 8)
        with open(name, "wb") as f:
            for _ in range(4):
                f.write(data)
        with open(name, "rb") as f:
            for _ in range(4):
                assert f.read(len(data)) == data
        t = time.ticks_us()
        await asyncio.sleep(0)
        worst = max(worst, time.ticks_diff(time.ticks_us(), t))
    return worst

async def both():
    alone = await application(20)
    task = asyncio.create_task(scrubber.run(step_ms=%d, period_ms=1))
    await asyncio.sleep(0)
    steps = scrubber.steps
    beside = await application(60)
    task.cancel()
    print(alone / 1000, beside / 1000, scrubber.steps - steps)

events()
"""


def run(board, code, timeout=300):
    out, err = board.run(code, timeout)
    assert not err, err
    return out.split("\n")


def events(lines):
    """Entries printed by events(), as tuples of text."""
    return [tuple(line.strip().split(" ")[1:]) for line in lines if line.startswith("event")]


@contextmanager
def started(rig, **kwargs):
    """The board at its prompt, after START."""
    with rig.board(**kwargs) as board:
        assert board.power_on_report()["verdict"] == "RUN"
        board.repl()
        run(board, START)
        yield board


@pytest.fixture
def board(rig2):
    with started(rig2) as board:
        yield board


@pytest.fixture
def clocked(rig2):
    """The same, its clock counting instructions: a busy host does not take guest time.

    It does take the time of a disk that answers by itself, as SATA disks do: the best of some
    rounds counts.
    """
    with started(rig2, icount="shift=2,sleep=off") as board:
        yield board


def journal_of(rig, path):
    """(phase, event, where, first, count) of the host's reading of a disk's journal."""
    with Disk(path) as disk:
        found = journal.read(disk, region.find(disk).header)
    assert not found.damaged
    return [(e.phase, e.event, e.where, e.first, e.count) for e in found.entries]


@pytest.mark.parametrize("steps", [STEPS, FINDING], ids=["healthy", "finding"])
def test_steps_keep_their_time(clocked, steps):
    """Within 1.5 times what they were given."""
    rounds = []
    while len(rounds) < ROUNDS and not any(most <= 1.5 for _, most in rounds):
        lines = run(clocked, steps)
        rounds.append(tuple(map(float, lines[0].split())))
    middle, most = min(rounds, key=lambda found: found[1])
    assert most <= 1.5, rounds
    assert middle >= 0.5, "steps end long before their time"


def test_damage_in_flash_is_repaired_while_the_application_runs(board, rig2):
    places = [100, rig2.spec.block_size + 5000, rig2.manifest_at + 300]
    for place in places:
        run(board, f"rot({place}, bytes(16))")
    board.off()
    assert rig2.differing() == [0, 1, rig2.manifest_block]
    # The same damage once more, on a board that goes on running.
    rig2.heal()
    with started(rig2) as running:
        for place in places:
            run(running, f"rot({place}, bytes(16))")
        lines = run(running, "full_pass()\nevents()\nprint(sorted(scrubber.changed))")
    told = events(lines)
    for block in (0, 1, rig2.manifest_block):
        assert ("found", "", "flash", str(block), "1") in told
        assert ("repaired", "", rig2.disk_name(0), str(block), "1") in told
    assert lines[-2].strip() == "['os']"
    assert rig2.differing() == []
    for path in rig2.drives:
        noted = journal_of(rig2, path)
        assert (1, "repaired", rig2.disk_name(0), 1, 1) in noted
        assert (1, "changed", "os", 0, 1) in noted


def test_rotten_copies_are_mended_from_flash(board, rig2):
    for i, path in enumerate(rig2.drives):
        rig2.rot(path, 2 + i)
        assert rig2.copies(path)["1.0"] == [2 + i]
    lines = run(board, "full_pass()\nevents()")
    assert {("mended", "", rig2.disk_name(i), str(2 + i), "1") for i in range(len(rig2.drives))} \
        <= set(events(lines))  # fmt: skip
    assert all(rig2.copies(path) == {"1.0": []} for path in rig2.drives)


def test_a_healthy_pass_writes_nothing(board, rig2):
    before = rig2.hashes()
    lines = run(board, "full_pass()\nevents()\nprint(scrubber.status())")
    assert not events(lines) and "'age_s': None" not in lines[-2]
    assert rig2.hashes() == before


def test_a_busy_application_and_the_scrubber_share_the_disk(clocked, rig2):
    """A turn that comes after a step waits for it: no longer than its bound."""
    lines = run(clocked, BUSY % MS)
    rounds = []
    while len(rounds) < ROUNDS and not any(wait <= 1.5 * MS for wait in rounds):
        told = run(clocked, "asyncio.run(both())\nevents()")
        alone, beside, steps = map(float, told[0].split())
        lines += told
        assert steps > 10
        rounds.append(beside - alone)
    assert min(rounds) <= 1.5 * MS, rounds
    assert not events(lines)
    assert all(rig2.copies(path) == {"1.0": []} for path in rig2.drives)


def test_a_warm_reset_goes_on_and_a_cold_one_begins_anywhere(board, rig2):
    run(board, "full_pass()\nwhile scrubber.status()['position'] != 3:\n    scrubber.step(0)\n")
    board.send("import machine; machine.reset()\x04")
    assert board.power_on_report()["verdict"] == "RUN"
    board.repl()
    lines = run(board, START + "s = scrubber.status()\nprint(s['position'], s['passes'] > 0)")
    assert lines[0].split() == ["3", "True"]
    starts = set()
    for _ in range(3):
        board.cycle()
        board.power_on_report()
        board.repl()
        lines = run(board, START + "s = scrubber.status()\nprint(s['position'], s['passes'])")
        position, passes = lines[0].split()
        starts.add(position)
        assert passes == "0"
        time.sleep(0.01)
    assert len(starts) > 1


def test_the_policy_may_be_to_restart(rig2):
    rig2.app_source = (
        START + "print('app: running', lifeboat.report().data.get('operation'))\n"
        "scrubber.policy = RESTART\n"
        "asyncio.run(scrubber.run(20, 20))\n"
    )
    rig2.make_image(2 * MB, version="2.0")
    with rig2.board() as board:
        assert board.power_on_report()["verdict"] == "RUN"
        board.wait_for("app: running None")
        # Stop the application, break the code, and let it go on.
        board.repl(interrupt=True)
        run(board, START + f"rot({rig2.spec.block_size + 9}, bytes(8))")
        board.send("scrubber.policy = RESTART\nasyncio.run(scrubber.run(20, 20))\x04")
        report = board.power_on_report()
        assert (report["verdict"], report["bad"]) == ("RUN", [])
        board.wait_for("app: running")
    assert rig2.differing() == []
    assert (1, "changed", "os", 1, 1) in journal_of(rig2, rig2.drives[0])


def test_a_soft_reset_keeps_what_happened(board):
    run(board, "rot(100, bytes(16))\nfull_pass()")
    board.send("\x02\x04")
    board.wait_for("soft reboot")
    report = board.power_on_report()
    assert ["found", "", "flash", 0, 1] in report["operation"]


def test_a_technician_scrubs_over_mpremote(rig2, mpremote):
    code = START + "rot(100, bytes(16))\nfull_pass()\nevents()"
    told = events(mpremote(rig2, "exec", code, timeout=180).split("\n"))
    assert ("repaired", "", rig2.disk_name(0), "0", "1") in told
    assert rig2.differing() == []
    out = mpremote(rig2, "exec", "import lifeboat; print(lifeboat.report().verdict)")
    assert "RUN" in out
