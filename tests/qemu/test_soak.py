"""An hour of a board's life: an application on the disks, rot everywhere, disks pulled, power cut.

`lifeboat campaign soak` runs it for an hour; the long run (`--slow`) for a minute. One life of the
board is a power-on, an application that writes and reads sectors of a disk beside a scrubber that
repairs, and an end without warning. In it rot comes into flash and copies, but never into the
last good copy of a block: all of it has to be healed, and told.
"""

import json
import os
import random
import time
from contextlib import ExitStack

import pytest

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.qemu import faulty_media
from qemu.rig import MB, data_hash

SECONDS = 3600 if os.environ.get("LIFEBOAT_CAMPAIGN") == "soak" else 60
SEED = int(os.environ.get("LIFEBOAT_SOAK_SEED", "1"))
MEMBERS = 3

APP = """
import asyncio, board, lifeboat, time
from lifeboat.scrub import REPAIR, Scrubber
from lifeboat.userarea import user_area

scrubber = Scrubber(board, policy=REPAIR)
done = failed = wrong = 0
found = {}
print("app: running")

def first():
    return [disk for disk in board.disks() if disk.name == "sata0"][0]

# Sectors of the first disk, behind whatever a table could need.
async def use():
    global done, failed, wrong
    buf, back, n = bytearray(4096), bytearray(4096), 0
    area = None
    while True:
        n += 1
        try:
            area = area or user_area(first())
            buf[:4] = n.to_bytes(4, "little")
            buf[-4:] = buf[:4]
            area.writeblocks(4096 + n % 64 * 8, buf)
            area.ioctl(3, 0)
            area.readblocks(4096 + n % 64 * 8, back)
            wrong += back != buf
            done += 1
        except Exception as error:  # the disk was pulled
            area = None
            failed += 1
            await asyncio.sleep_ms(200)
        await asyncio.sleep_ms(5)

# Bits of the code flash lose their charge.
async def rot():
    dev = board.flash()
    size = dev.ioctl(5, 0)
    while True:
        await asyncio.sleep_ms(3000)
        at = (time.ticks_us() * 2654435761 >> 8) % %d
        try:
            dev.writeblocks(at // size, bytes(1 + at %% 16), at % size)
            print("app: rot", at)
        except OSError:  # the scrubber has the chip
            pass

def count():
    for what, *_ in lifeboat.report().data.get("operation", ()):
        found[what] = found.get(what, 0) + 1

async def tell():
    while True:
        await asyncio.sleep_ms(1000)
        found.clear()
        count()
        print("app: told", done, failed, wrong, scrubber.passes, found.get("repaired", 0),
            found.get("mended", 0))

async def main():
    await asyncio.gather(use(), rot(), tell(), scrubber.run(step_ms=10, period_ms=2))

try:
    back = bytearray(512)
    user_area(first()).readblocks(4080, back)
except Exception:
    back = b""
if back[:4] != b"stop":
    asyncio.run(main())
"""

PASS = """
import board
from lifeboat.scrub import REPAIR, Scrubber
scrubber = Scrubber(board, policy=REPAIR)
while scrubber.passes < 2:
    scrubber.step(50)
"""


class Life:
    """The board, what happens to it, and an account."""

    def __init__(self, rig):
        self.rig = rig
        self.rng = random.Random(SEED)
        self.sum = dict.fromkeys(
            (
                "lives", "cuts_at_operations", "cuts_at_times", "members_pulled",
                "members_absent", "rot_in_flash_off", "rot_in_flash_running", "rot_in_copies",
                "blocks_repaired_at_power_on", "repaired_running", "mended_running",
                "application_writes", "application_failures", "scrub_passes",
            ),
            0,
        )  # fmt: skip

    def bad(self):
        """Return for each disk the bad blocks of its newest copy, None where it has none."""
        found = []
        for path in self.rig.drives:
            held = self.rig.copies(path)
            found.append(set(held["1.0"]) if "1.0" in held else None)
        return found

    def spoil_copies(self, here):
        """Let blocks of copies rot while the power is off, where another disk has them."""
        bad = self.bad()
        for _ in range(self.rng.randrange(4)):
            disk, block = self.rng.choice(here), self.rng.randrange(self.rig.blocks)
            others = [i for i in here if i != disk and bad[i] is not None and block not in bad[i]]
            if bad[disk] is not None and others:
                self.rig.rot(self.rig.drives[disk], block)
                bad[disk].add(block)
                self.sum["rot_in_copies"] += 1

    def spoil_flash(self):
        size = self.rig.spec.block_size
        for _ in range(self.rng.randrange(3)):
            at = self.rng.randrange(self.rig.blocks * size - 64)
            self.rig.damage((at, bytes(self.rng.randrange(1, 64))))
            self.sum["rot_in_flash_off"] += 1

    def live(self, number):
        rng, rig = self.rng, self.rig
        here = list(range(MEMBERS))
        if rng.random() < 0.2:
            here.remove(rng.choice(here))
            self.sum["members_absent"] += 1
        self.spoil_flash()
        self.spoil_copies(here)
        with ExitStack() as stack, faulty_media.Lab(on_cut=lambda: board.kill()) as lab:

            def store(path):
                opened = faulty_media.FileStore(path)
                stack.callback(opened.close)
                return opened

            flash = lab.export("flash", store(rig.flash), volatile=False)
            drives = [
                lab.export(path.stem, store(path)) if i in here else None
                for i, path in enumerate(rig.drives)
            ]
            board = rig.board(drives, flash)
            try:
                with board:
                    report = board.power_on_report()
                    assert report["verdict"] == "RUN", (number, report)
                    repaired = sum(n for _, n, _ in report["repaired"])
                    self.sum["blocks_repaired_at_power_on"] += repaired
                    assert report["erases"] <= repaired + 2, (number, report)  # I8
                    board.wait_for("app: running")
                    assert rig.content() == rig.good, number
                    self.use(board, lab, [drives[i] for i in here])
            except LifeboatError as error:
                assert error.code == "board-ended" and lab.dead, (
                    number,
                    error,
                    board.console[-1500:],
                )
                self.sum["cuts_at_operations"] += 1
            finally:
                board.close()
            lab.settle(rng.choice(["none", "all", "last", "random"]), seed=number)
            self.account(board.console)
        self.sum["lives"] += 1

    def use(self, board, lab, exports):
        """Let the application run for some seconds, and end it without warning."""
        rng = self.rng
        seconds = rng.uniform(2, 12)
        if rng.random() < 0.3:
            time.sleep(seconds / 2)
            rng.choice(exports).vanish()
            self.sum["members_pulled"] += 1
        if rng.random() < 0.4:
            lab.torn = rng.choice((0, 700, 2048))
            lab.cut_at = lab.count + rng.randrange(1, 200)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            board.wait_for("app: told")
        board.kill()
        self.sum["cuts_at_times"] += 1

    # What the application told last.
    def account(self, console):
        lines = [line.split() for line in console.split("\n")]
        self.sum["rot_in_flash_running"] += sum(words[:2] == ["app:", "rot"] for words in lines)
        told = [words[2:] for words in lines if words[:2] == ["app:", "told"] and len(words) == 8]
        if told:
            done, failed, wrong, passes, repaired, mended = map(int, told[-1])
            assert wrong == 0, "what the application wrote was not there"
            self.sum["application_writes"] += done
            self.sum["application_failures"] += failed
            self.sum["scrub_passes"] += passes
            self.sum["repaired_running"] += repaired
            self.sum["mended_running"] += mended


@pytest.mark.slow
@pytest.mark.sata
def test_an_hour_of_rot_cuts_and_pulled_members(empty_rig, request):
    rig = empty_rig
    if request.node.callspec.params["spec"] != "qemu_virt":
        pytest.skip("one board is enough")
    rig.app_source = APP.replace("%d", str(2 * MB - 4096)).replace("%%", "%")
    rig.make_image(2 * MB)
    rig.add_disks(MEMBERS)
    with rig.board() as board:
        assert board.power_on_report()["verdict"] == "RUN"
    # Somebody's data, on disks that the application does not use.
    for path in rig.drives[1:]:
        with open(path, "r+b") as file:
            file.seek(1 * MB)
            file.write(b"user" * 65536)
    foreign = [data_hash(path, rig.region_range(path)) for path in rig.drives[1:]]
    life = Life(rig)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        life.live(life.sum["lives"] + 1)
    # At last everything is there and quiet: all is healed.
    with open(rig.drives[0], "r+b") as file:
        file.seek(4080 * 512)
        file.write(b"stop")
    with rig.board() as board:
        assert board.power_on_report()["verdict"] == "RUN"
        board.repl()
        assert board.run(PASS, 600) == ("", "")
    assert rig.differing() == []
    assert [rig.copies(path) for path in rig.drives] == [{"1.0": []}] * MEMBERS
    assert [data_hash(path, rig.region_range(path)) for path in rig.drives[1:]] == foreign
    print(json.dumps(life.sum, indent=1))
    tally = {"seconds": SECONDS, **life.sum}
    request.node.user_properties.append(("soak", json.dumps(list(tally.values()))))
