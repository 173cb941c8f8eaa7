"""A world in which anything is written onto any disk, and what holds after each power-on.

A state machine: somebody writes sectors, records, tables, swaps and clones disks; flash rots;
power fails at any operation; people update the code; the scrubber goes round. Reproduce a failure
with what hypothesis prints.
"""

import contextlib
import io
import struct

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)  # fmt: skip

import lifeboat
from fakes import board as sim
from fakes import gpt, signer
from fakes.forgery import Place, image, install, large_manifest, lying_manifest, parts, same_crc
from fakes.rng import Rng
from lifeboat import running
from lifeboat.scrub import Scrubber
from sim.disk import RamDisk
from sim.power import Power, PowerCut

SIZE = sim.ERASE
BLOCKS = 6
JOURNAL = 4
SLOTS = 3
EXTRA = 400  # sectors before the region
OWN = b"S" * 16

numbers = st.integers(0, 2**32 - 1)
members = st.integers(0, 1)
slots = st.integers(0, SLOTS - 1)
blocks = st.integers(0, BLOCKS - 1)
generations = st.sampled_from([1, 2, 7, 0xFEFFFFFF, 0xFF000000, 0xFFFFFFEF])


class World(RuleBasedStateMachine):
    remembers = "set"

    def __init__(self):
        super().__init__()
        self.mine = [image(s, "%d.0" % s, self.remembers) for s in (1, 2, 3)]
        self.evil = image(666, "2.0", self.remembers)
        self.lying = lying_manifest(900, memory=8 if self.remembers == "flash" else 0)
        self.vouched = []  # images that a person put into flash
        self.regions = []  # (disk, first LBA, end) that a person made
        self.rotten = None  # a mirror of the memory that is not healed yet
        self.allowed = {}  # id of a disk: LBAs that may be written
        self.erases = self.most_erases = 0

    @initialize(which=st.integers(0, 2))
    def begin(self, which):
        self.board = sim.SimBoard(
            bytearray(self.mine[which]), members=2, journal=JOURNAL, slots=SLOTS, extra=EXTRA,
            remembers=self.remembers,
        )  # fmt: skip
        self.vouched = [self.mine[which]]
        self.set_up()
        self.total = len(self.mine[0]) // SIZE
        self.shelf = []
        for disk in self.board.drives:
            self.own(disk)
        self.power_on()
        assert self.report.verdict == "RUN"
        self.set_id = self.report.data["set"]
        self.clean = True  # no rot, no cut since the last power-on with intact code

    def set_up(self):
        """What a kind of board has beside."""

    def own(self, disk):
        place = self.place(disk)
        first = place.start // 512
        self.allowed[id(disk)] = range(first, first + place.size // 512)

    def place(self, disk):
        return Place(disk, self.total, SLOTS, JOURNAL)

    def at(self, member):
        return self.place(self.board.drives[member % len(self.board.drives)])

    # What holds

    def intact(self):
        """Whether the flash holds all of an image that somebody put there."""
        data = self.board.nor.data
        for content in self.vouched:
            code, manifest = parts(content)
            if data[: len(code)] == code and data[-SIZE:][: len(manifest)] == manifest:
                return True
        return False

    def power_on(self, cut=0, torn=False, keep="none", unlimited=False):
        board = self.board
        power = Power(cut, torn)
        board.supply(power)
        healthy = self.intact()
        before = bytes(board.nor.data)
        for disk in board.drives:
            disk.written.clear()
        board.nor.erases = 0
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                self.report = lifeboat.power_on(board, unlimited=unlimited)
        except PowerCut:
            self.report = None
        for i, disk in enumerate(board.drives):
            disk.settle(keep if self.report is None else "none", cut + i)
        board.supply(Power())
        self.check_writes()
        self.check_flash(before, self.report is None)
        if self.report is not None:
            data = self.report.data
            assert "internal" not in [code for code, _, _ in data["reasons"]], data
            assert self.report.runs or not healthy, data
            assert not self.report.runs or self.intact(), data
            # A repair of each block, the memory begun or written anew, and a plan that failed.
            assert board.nor.erases <= 2 * (BLOCKS + 1) + 16
            if healthy:
                assert data["bad"] in ([], [[self.total - 1, 1]]), data
            if getattr(self, "set_id", None) and self.remembered():
                assert data["set"] == self.set_id, data

    def remembered(self):
        """Whether a mirror of the memory still has its header."""
        data = (self.board.chip or self.board.nor).data
        if self.board.chip:
            return bytes(data[:8]) == b"LBMEMORY" or bytes(data[sim.MIRROR :][:8]) == b"LBMEMORY"
        at = len(data) - 9 * SIZE
        return b"LBMEMORY" in (bytes(data[at : at + 8]), bytes(data[at + 4 * SIZE :][:8]))

    def check_writes(self):
        for disk in self.board.drives:
            allowed = self.allowed.get(id(disk), ())
            assert all(lba in allowed for lba in disk.written), disk.name

    def check_flash(self, before, cut):
        """Each block is as it was, or one of an image that a person put there; after a cut also
        blank or torn."""
        data = self.board.nor.data
        torn = 0
        for block in range(BLOCKS):
            now = bytes(data[block * SIZE : (block + 1) * SIZE])
            if now == before[block * SIZE : (block + 1) * SIZE]:
                continue
            known = [parts(c)[0][block * SIZE : (block + 1) * SIZE] for c in self.vouched]
            if now not in known:
                half = [k[: SIZE // 2] + b"\xff" * (SIZE // 2) for k in known]
                blank = now == b"\xff" * SIZE or now in half or now[:8] == b"\xff\xa5" * 4
                assert blank, "block %d is of nobody" % block
                assert cut or self.report.verdict == "RESCUE"
                torn += 1
        assert torn <= 1 or not cut
        now, was = bytes(data[-SIZE:]), before[-SIZE:]
        if now != was:
            known = [parts(c)[1].ljust(SIZE, b"\xff") for c in self.vouched]
            half = [k[: len(parts(c)[1]) // 2] for k, c in zip(known, self.vouched)]
            assert (
                now in known
                or cut
                and (
                    now[:4] in (b"\xff" * 4, b"\xff\xa5" * 2)
                    or any(now.startswith(h) and now[SIZE - 64 :] == b"\xff" * 64 for h in half)
                )
            )

    # Power-ons

    @rule()
    def on(self):
        self.power_on()
        first = self.report
        self.power_on()
        # What follows the manifest waits until a disk holds the manifest, too.
        if self.report.verdict == "RUN" and first.data["manifest"] != "padding":
            assert self.report.data["repaired"] == []

    @rule(cut=st.integers(1, 60), torn=st.booleans(),
          keep=st.sampled_from(["none", "all", "last", "random"]))  # fmt: skip
    def on_cut(self, cut, torn, keep):
        whole = self.whole()
        self.power_on(cut, torn, keep)
        if self.report is None:
            assert len(whole) == 0 or self.whole(), "the last good copy is gone (I2)"
        self.power_on()

    def whole(self):
        """Copies, on the boards' disks, of images that a person put into flash."""
        found = []
        for disk in self.board.drives:
            place = self.place(disk)
            if id(disk) in self.allowed:
                for content in self.vouched:
                    found += [c for c in range(SLOTS) if place.holds(c, content)]
        return found

    @rule()
    def a_person_has_another_try(self):
        self.power_on(unlimited=True)

    @precondition(lambda self: self.intact())
    @rule(steps=st.integers(1, 60))
    def scrub(self, steps):
        with contextlib.redirect_stdout(io.StringIO()):
            report = lifeboat.power_on(self.board)
        before = bytes(self.board.nor.data)
        self.report = report
        for disk in self.board.drives:
            disk.written.clear()
        running.attended = False
        scrubber = Scrubber(self.board, start=0)
        for _ in range(steps):
            scrubber.step(1)
        for disk in self.board.drives:
            disk.settle("all")
        reasons = [code for code, _, _ in report.data["reasons"]]
        assert "internal" not in reasons, report.data
        self.check_writes()
        self.check_flash(before, False)

    # People

    @rule(which=st.integers(0, 2), finished=st.booleans())
    def update(self, which, finished):
        content = self.mine[which]
        if content not in self.vouched:
            self.vouched.append(content)
        if finished:
            install(self.board, content)
        else:
            code, _ = parts(content)
            self.board.nor.data[: 3 * SIZE] = code[: 3 * SIZE]
            self.board.nor.data[-SIZE:] = b"\xff" * SIZE
        self.power_on()

    # Rot

    @rule(block=blocks, at=st.integers(0, SIZE - 1), bit=st.integers(0, 7))
    def rot_bit(self, block, at, bit):
        self.board.nor.data[block * SIZE + at] ^= 1 << bit

    @rule(which=st.lists(blocks, max_size=BLOCKS))
    def rot_blocks(self, which):
        for block in which:
            self.board.nor.data[block * SIZE : (block + 1) * SIZE] = b"\xff" * SIZE

    @rule(at=st.integers(0, 600))
    def rot_manifest(self, at):
        self.board.nor.data[at - SIZE] ^= 4

    @precondition(lambda self: self.remembers)
    @rule(mirror=members, size=st.sampled_from([1, 256, 5000]), at=st.integers(0, 2000))
    def rot_one_mirror(self, mirror, size, at):
        """One mirror only; the other one has all of it after the power-on that follows."""
        # Damaged code heals no mirror. With both lost nothing is promised (docs/security.md).
        if self.rotten == 1 - mirror:
            return
        self.rotten = mirror
        if self.board.chip:
            data, start = self.board.chip.data, mirror * sim.MIRROR
        else:
            data = self.board.nor.data
            start = len(data) - 9 * SIZE + mirror * 4 * SIZE
        for i in range(start + at, start + at + size):
            data[i] ^= 0x24
        self.power_on()
        if self.report.runs and self.intact():
            self.rotten = None
            return
        # Damaged code: the memory is healed only by intact code, so a second rot may take it.
        self.set_id = None

    # Somebody who can write any sector

    @rule(member=members, seed=numbers, count=st.integers(1, 40), low=st.booleans())
    def random_sectors(self, member, seed, count, low):
        rng = Rng(seed)
        place = self.at(member)
        first = 0 if low else place.start // 512
        for _ in range(count):
            lba = first + rng.below(place.disk.count - first)
            place.disk.sectors[lba] = rng.choice((rng.bytes(512), bytes(512), b"\xff" * 512))

    @rule(member=members, slot=slots, generation=generations, known=st.integers(-1, 2),
          code=st.sampled_from(["its", "zeros", "crc", "evil"]))  # fmt: skip
    def plant(self, member, slot, generation, known, code):
        content = self.evil if known < 0 else self.mine[known]
        its, _ = parts(content)
        bytes_of = {
            "its": its, "zeros": bytes(len(its)), "evil": parts(self.evil)[0],
            "crc": b"".join(same_crc(its[i : i + SIZE]) for i in range(0, len(its), SIZE)),
        }[code]  # fmt: skip
        self.at(member).plant(slot, content, generation, code=bytes_of)

    @rule(member=members, slot=slots, generation=generations, sha=st.booleans())
    def plant_lying(self, member, slot, generation, sha):
        place = self.at(member)
        raw, crcs, shas = self.lying
        place.put(place.slot(slot), place.record(slot, raw, generation))
        place.put(place.manifest(slot), raw.ljust(4096, b"\0"))
        place.put(place.block(slot, 0), shas if sha else crcs)

    @rule(member=members, slot=slots, version=st.integers(0, 3))
    def plant_large(self, member, slot, version):
        place = self.at(member)
        raw = large_manifest("L%d" % version)
        place.put(place.slot(slot), place.record(slot, raw, 9))
        place.put(place.manifest(slot), raw)

    @rule(member=members, slot=slots, field=st.sampled_from(
        ["major", "incompat", "ro_compat", "slot", "build", "manifest_size", "block_count"]),
        value=st.sampled_from([0, 1, 2, 255]))  # fmt: skip
    def forge_commit(self, member, slot, field, value):
        place = self.at(member)
        if field == "build":
            value = bytes([value] * 32)
        place.put(
            place.slot(slot), place.record(slot, parts(self.mine[0])[1], 5, **{field: value})
        )

    @rule(member=members, offset=st.integers(8, 500), value=st.binary(min_size=1, max_size=8),
          copies=st.integers(1, 7))  # fmt: skip
    def forge_header(self, member, offset, value, copies):
        place = self.at(member)
        for i, at in enumerate(place.headers):
            if copies >> i & 1:
                raw = bytearray(place.get(at))
                end = min(508, offset + len(value))
                raw[offset:end] = value[: end - offset]
                raw[508:512] = struct.pack("<I", sim.crc32(raw[:508]))
                place.put(at, raw)

    @rule(member=members, page=st.integers(0, JOURNAL - 1), major=st.sampled_from([1, 1, 2]),
          serial=st.sampled_from([0, 1, 5, 0xFEFFFFFF, 0xFFFFFFEF, 0xFFFFFFFF]),
          entries=st.integers(0, 63), number=st.sampled_from([0, 1, 0xFFFFFFFF]))  # fmt: skip
    def forge_journal(self, member, page, serial, entries, number, major):
        entries = min(entries, 62)
        self.at(member).journal_page(page, serial, entries, min(number, 2**32 - 64), major)

    @rule(member=members, kind=st.sampled_from(["none", "over", "small", "ours", "mbr", "wipe"]))
    def partition(self, member, kind):
        place = self.at(member)
        disk, first = place.disk, place.start // 512
        last = disk.count - 34
        if kind == "mbr":
            entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 63, disk.count - 63)
            disk.sectors[0] = bytes(446) + entry + bytes(48) + b"\x55\xaa"
        elif kind == "wipe":
            for lba in range(0, 34):
                disk.sectors.pop(lba, None)
        else:
            found = {
                "none": [], "over": [(gpt.LINUX, 40, last)], "small": [(gpt.LINUX, 40, 90)],
                "ours": [(gpt.LIFEBOAT, first, disk.count - 1)],
            }[kind]  # fmt: skip
            gpt.both(disk, found)

    @rule(member=members, fresh=st.booleans())
    def replace_disk(self, member, fresh):
        """Another disk, with another controller's region or with none."""
        old = self.board.drives[member]
        disk = RamDisk(old.name, old.count, self.board.power)
        self.shelf.append(old)
        if not fresh:
            place = self.place(disk)
            sim.make_region(disk, set_id=b"E" * 16, slot=place.slot_size, slots=SLOTS,
                            size=place.size, journal=JOURNAL)  # fmt: skip
            place.plant(0, self.evil, 99)
            place.plant(1, self.mine[2], 98)
        self.board.drives[member] = disk

    @precondition(lambda self: self.shelf)
    @rule(member=members)
    def bring_back(self, member):
        self.board.drives[member], self.shelf[-1] = self.shelf[-1], self.board.drives[member]

    @rule()
    def swap(self):
        self.board.drives.reverse()

    @rule(member=members)
    def clone(self, member):
        """The other disk becomes a copy of this one: nobody can tell them apart."""
        one, two = self.board.drives[member], self.board.drives[1 - member]
        two.sectors = dict(one.sectors)
        if id(one) in self.allowed:
            self.own(two)

    @rule(member=members)
    def keep(self, member):
        disk = self.board.drives[member]
        self.kept = disk, dict(disk.sectors)

    @precondition(lambda self: getattr(self, "kept", None))
    @rule()
    def roll_back(self):
        disk, sectors = self.kept
        disk.sectors = dict(sectors)

    @invariant()
    def no_code_of_nobody(self):
        """No block of the flash is of the attacker's code."""
        if not self.vouched:
            return
        for code in (parts(self.evil)[0], *self.lying[1:]):
            for block in range(BLOCKS):
                at = block * SIZE
                assert self.board.nor.data[at : at + SIZE] != code[at : at + SIZE]


class InFlash(World):
    remembers = "flash"


OWNER, STRANGER = signer.key(1), signer.key(666)


class Signed(World):
    """A board with keys: what the owner signed counts, and nothing older than what ran.

    The attacker has old builds that the owner signed, builds that he signs himself, and all the
    signatures that there are.
    """

    def __init__(self):
        super().__init__()
        self.mine = [OWNER.image(content, counter=2) for content in self.mine]
        self.worthless = [
            self.evil,
            STRANGER.image(self.evil, counter=9),
            OWNER.image(image(667, "0.9", self.remembers), counter=1),
            self.with_signature_of(self.mine[0]),
        ]
        self.evil = self.worthless[1]

    def with_signature_of(self, content):
        """The attacker's code with the owner's key id and a signature of the owner's."""
        _, good = parts(content)
        at = len(good) - 4 - struct.unpack_from("<I", good, 28)[0]
        _, raw = parts(self.evil)
        raw = signer.signed(raw, lambda message: good[at + 8 : -4], OWNER.id, counter=2)
        return self.evil[:-SIZE] + raw.ljust(SIZE, b"\xff")

    def set_up(self):
        self.vouched = list(self.mine)
        self.board.UNSIGNED = False
        self.board.KEYS = signer.key_set(1, (signer.ALL, OWNER))

    @rule(member=members, slot=slots, generation=generations, which=st.integers(0, 3))
    def plant_worthless(self, member, slot, generation, which):
        self.at(member).plant(slot, self.worthless[which], generation)

    @rule(which=st.integers(0, 3))
    def flash_worthless(self, which):
        """Somebody with a programmer, or an image that somebody was handed."""
        install(self.board, self.worthless[which])
        self.power_on()
        assert not self.report.runs or self.intact()
        # What the owner did not sign is not what the flash is meant to hold.
        if not self.report.runs:
            install(self.board, self.mine[0])


class SignedInFlash(Signed):
    remembers = "flash"


def world(kind, examples, steps):
    # To make a failure smaller takes minutes: add Phase.shrink for it.
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True,
            database=None, print_blob=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


KINDS = [World, InFlash, Signed, SignedInFlash]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_written_onto_disks(kind):
    world(kind, 60, 25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_written_onto_disks_for_long(kind):
    world(kind, 3000, 60)
