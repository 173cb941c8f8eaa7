"""The board's end of the host tools: flash, verify and provision over the REPL.

    >>> import board
    >>> from lifeboat.agent import Agent
    >>> agent = Agent(board)
    >>> agent.call("identify")
    agent: {"ok": {"agent": 1, "product": ...}}

Every method is meant to be called through call(), which prints one line of JSON at its end; some
exchange bytes before it. docs/provisioning.md is the protocol. Nothing sent to the board holds
a 0x03: Ctrl-C stops whatever the board waits for, at any time.
"""

import json
from binascii import unhexlify
from errno import EIO
from hashlib import sha256
from struct import unpack

import machine
from micropython import const

from . import boot, running
from .agent_disks import DiskAgent, hexed
from .blockdev import Scratch
from .checking import check, choose_own
from .errors import LifeboatError
from .kernels import blank
from .line import FRAME, PIECE, WINDOW, Line
from .manifest import Manifest, limit
from .members import LEVEL, copies, disk_error, survey
from .records import UNIT
from .report import Report

# An extra: few boards have a console to close.
try:
    from .lock import change
except ImportError:
    change = None

# So are the scrubber, and other builds than the one in flash.
try:
    from . import scrub_state
except ImportError:
    scrub_state = None
try:
    from .agent_update import UpdateAgent
except ImportError:

    class UpdateAgent:
        updates = False

        def rollback(self, build):
            raise LifeboatError("update-missing")

        def _end_trial(self):
            pass


PROTOCOL = const(1)


class Agent(DiskAgent, UpdateAgent):
    """A session of the host tools with a board; nothing of it is kept on the board."""

    def __init__(self, board, line=None):
        super().__init__(board, line or Line())
        # A scrubber on a timer would take new code for damage, and put the old code back.
        running.attended = True
        self._scratch = Scratch(board.BLOCK_SIZE)
        self._manifest = None
        self._sure = set()  # blocks that were seen to be the manifest's, by SHA-256
        self._members = []
        self._copies = {}

    def call(self, name, *args):
        """Run a method and print its answer or its error."""
        self._line.guard(True)
        try:
            answer = {"ok": getattr(self, name)(*args)}
        except LifeboatError as error:
            answer = {"error": [error.code, error.detail]}
        except OSError as error:
            code = disk_error(error) if name.startswith("disk") else "flash-failed"
            answer = {"error": [code, str(error.args and error.args[-1])]}
        except BaseException:
            self._line.drain()
            raise
        finally:
            self._line.guard(False)
        print("agent:", json.dumps(answer))

    # What is here

    def identify(self):
        """Which board this is, and what it reported last; blocks: of its flash, 0 if it fails."""
        last = boot.report()
        try:
            blocks = self._flash.blocks
        except OSError:
            blocks = 0
        return {
            "agent": PROTOCOL,
            "product": self._board.PRODUCT,
            "block_size": self._board.BLOCK_SIZE,
            "blocks": blocks,
            "piece": PIECE,
            "window": WINDOW,
            "frame": FRAME,
            "report": last.data if last else None,
            "scrub": self._scrubbed(),
            "updates": self.updates,
        }

    # How far the scrubber was when the application was stopped.
    def _scrubbed(self):
        area = scrub_state and self._board.retained()
        state = area and scrub_state.load(area)
        if not state:
            return None
        _, units, left, _, age, passes, bound, _ = state
        return {"units": units, "left": left, "passes": passes, "age_ms": age, "bound_s": bound}

    def code(self):
        """Take the manifest in flash as the one that compare() is about, and describe it."""
        self._manifest, self._sure = None, set()
        self._manifest, rest = self._flash.manifest(self._trusted())
        return self._describe(self._manifest, rest)

    def compare(self, first, count):
        """The numbers of the blocks in [first, first + count) that are not the manifest's."""
        buf = self._scratch.get()
        bad = []
        for block in range(first, min(first + count, self._manifest.block_count)):
            self._sure.discard(block)
            try:
                self._flash.read(block, buf)
            except OSError as error:
                if error.errno != EIO:
                    raise
                bad.append(block)
                continue
            if _matches(self._manifest, block, buf):
                self._sure.add(block)
            else:
                bad.append(block)
        return bad

    def used(self, first, count):
        """The numbers of the blocks in [first, first + count) that are not erased."""
        buf = self._scratch.get()
        taken = []
        for block in range(first, min(first + count, self._flash.blocks)):
            self._flash.read(block, buf)
            if not blank(buf):
                taken.append(block)
        return taken

    @staticmethod
    def _describe(manifest, rest):
        return {
            "product": manifest.product,
            "version": manifest.version,
            "build": hexed(manifest.build[:6]),
            "memory": manifest.memory_blocks,
            "manifest": manifest.manifest_blocks,
            "blocks": manifest.block_count,
            "crc": unpack("<I", manifest.raw[-4:])[0],
            "blank": rest,
        }

    # New code

    def offer(self):
        """Receive a manifest as a parcel, and take it as the one to flash, if it is for here."""
        self._manifest, self._sure = None, set()
        manifest = self._answering(Manifest, self._parcel())
        self._answering(self._trusted().accept, manifest)
        self._manifest = manifest
        self._line.write(b"=")
        return self._describe(manifest, True)

    # The one that comes next: a manifest.
    def _parcel(self):
        buf = memoryview(bytearray(limit(self._flash.blocks)))
        while True:
            _, size = self._line.parcel(buf)
            if size is not None:
                return bytes(buf[:size])
            self._line.write(b"~")

    def blocks(self):
        """Receive blocks of the offered manifest as parcels, and program them (I1)."""
        manifest, flash = self._manifest, self._flash
        self._end_trial()
        buf = self._scratch.get()
        written = 0
        while True:
            block, size = self._line.parcel(buf)
            if size == 0:
                return written
            right = size == len(buf) and block < manifest.block_count
            if not right or not _matches(manifest, block, buf):
                self._line.write(b"~")
                continue
            self._sure.discard(block)
            self._forget_report()
            self._answering(flash.program, manifest, block, buf)
            self._sure.add(block)
            written += 1
            self._line.write(b"=")

    def finish(self):
        """Write the offered manifest, which makes the new code the board's."""
        manifest, flash = self._manifest, self._flash
        for block in range(manifest.block_count):
            if block not in self._sure:
                raise LifeboatError("flash-verify", str(block))
        if flash.holds(manifest):
            return False
        self._end_trial()
        self._forget_report()
        flash.program_manifest(manifest)
        return True

    # Backups

    def members(self):
        """The members, and the committed copies in the slots of each."""
        trust = self._trusted()
        try:
            manifest, _ = self._flash.manifest(trust)
        except LifeboatError:
            manifest = None
        found = Report()
        self._members = survey(self._attached(), self._board.REGION_LBAS, found)
        choose_own(self._members, trust, found)
        if manifest:
            check(self._members, manifest, trust)
        self._copies = {}
        answer = [self._describe_member(member, trust) for member in self._members]
        return {"members": answer, "reasons": found.data["reasons"]}

    def _describe_member(self, member, trust):
        told = []
        for copy in copies([member]):
            if not copy.commit:
                continue
            about = {"slot": copy.slot, "generation": copy.commit.generation}
            manifest = copy.load(trust)
            if manifest:
                about.update(self._describe(manifest, True))
                about["known"] = trust.memory.age(manifest.build) >= 0
                self._copies[member.name, copy.slot] = copy, manifest
            else:
                about["error"] = "commit-field" if member.readable else "disk-failed"
            told.append(about)
        region = member.region
        return {
            "disk": member.name,
            "state": member.state,
            "copies": told,
            "set": region and hexed(region.set_id),
            "region": region and hexed(region.region_id),
        }

    def check_copy(self, disk, slot, first, count):
        """The numbers of the damaged blocks in [first, first + count) of a copy."""
        copy, manifest = self._copies[disk, slot]
        last = min(first + count, manifest.block_count)
        scratch, good = self._scratch, manifest.right
        copy.bad.clear()
        return [block for block in range(first, last) if not copy.read(block, scratch, good)]

    def power_on(self, unlimited=False):
        """What a power-on does, without one: inspect, recover, back up.

        unlimited: read all copies, and try again what failed before.
        """
        return self._power_on(unlimited=unlimited)

    # What the session holds goes first: these want a block's worth of the heap in one piece.
    def _let_go(self):
        self._devices = self._opened = None
        self._members, self._copies = [], {}
        self._scratch.drop()

    def _power_on(self, **how):
        self._let_go()
        return boot.power_on(self._board, **how).data

    # The memory

    def adopt(self, set_id):
        """Make the regions of a set, 32 hex digits, this controller's own; then as power_on().

        What was remembered of another set is forgotten; what failed is tried again.
        """
        return self._power_on(adopt=unhexlify(set_id))

    def lock(self, on):
        """Close the console from the next reset on, or leave it open; then as memory()."""
        if not change:
            raise LifeboatError("lock-missing")
        change(self._board, on)
        return self.memory()

    def drill(self, block):
        """Erase a block of the code, of which every member was just seen to hold a good copy."""
        self.code()
        if self.compare(0, self._manifest.block_count):
            raise LifeboatError("flash-changed", "damaged before the drill")
        self.members()
        own = [member for member in self._members if member.writable]
        for member in own:
            good = [c for c in member.copies if c.holds(self._manifest)]
            if member.backup != LEVEL or not any(
                c.read(block, self._scratch, self._manifest.right) for c in good
            ):
                raise LifeboatError("backup-none", member.name)
        if not own:
            raise LifeboatError("backup-none")
        self._forget_report()
        self._flash.erase(block)
        return len(own)

    # The verdict is about other code from here on: not even a soft reset may believe it.
    def _forget_report(self):
        area = self._board.retained()
        if area:
            area[:4] = bytes(4)

    def reset(self):
        """Reset the board; does not return."""
        machine.reset()

    # For a person at the REPL, or with mpremote

    def show(self):
        """Print which blocks are damaged: of the code in flash, and of every backup copy."""
        try:
            about = self.code()
            self._tell("code", about, self.compare(0, about["blocks"]))
        except LifeboatError as error:
            print("code: none,", error.code)
        for member in self.members()["members"]:
            print(member["disk"], member["state"])
            for copy in member["copies"]:
                where = "%s slot %d" % (member["disk"], copy["slot"])
                if "error" in copy:
                    print(where, copy["error"])
                    continue
                bad = self.check_copy(member["disk"], copy["slot"], 0, copy["blocks"])
                self._tell(where, copy, bad)

    @staticmethod
    def _tell(where, about, bad):
        print(
            "%s %s (%s): %d damaged of %d blocks"
            % (where, about["version"], about["build"], len(bad), about["blocks"]),
            bad or "",
        )

    def log(self):
        """Print the journal of every member: session, event, code, where, first, count."""
        from .journal import entries, pages

        self.members()
        for member in self._members:
            if member.readable and pages(member.region):
                print(member.name)
                for entry in entries(member.region, bytearray(UNIT)):
                    print(" ", entry[1], *map(_printable, entry[5:8]), *entry[8:])


# What stands on a disk is anybody's.
def _printable(text):
    return "".join(chr(c) if 32 < c < 127 else "?" for c in text.rstrip(b"\0")) or "-"


def _matches(manifest, block, data):
    return sha256(data).digest() == manifest.digest(block)
