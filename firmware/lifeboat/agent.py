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
from errno import EIO
from struct import unpack

import machine
from micropython import const

from . import boot
from .blockdev import INIT, SYNC, Checked, Scratch, Window, geometry
from .checking import check, choose_home, disk_error, survey
from .codeflash import CodeFlash
from .errors import LifeboatError
from .line import FRAME, FRAMES, PIECE, WINDOW, Line
from .manifest import MAX_SIZE, Manifest
from .recovery import Copy
from .region import UNIT
from .report import Report

PROTOCOL = const(1)


class Agent:
    """A session of the host tools with a board; nothing of it is kept on the board."""

    def __init__(self, board, line=None):
        # A scrubber on a timer would take new code for damage, and put the old code back.
        boot.attended = True
        self._board = board
        self._line = line or Line()
        self._opened = None
        self._scratch = Scratch(board.BLOCK_SIZE)
        self._manifest = None
        self._sure = set()  # blocks that were seen to be the manifest's, by SHA-256
        self._devices = None
        self._members = []
        self._copies = {}
        self._disks = {}
        self._windows = {}

    def call(self, name, *args):
        """Run a method and print its answer or its error."""
        self._line.guard(True)
        try:
            answer = {"ok": getattr(self, name)(*args)}
        except LifeboatError as error:
            answer = {"error": [error.code, error.detail]}
        except OSError as error:
            code = disk_error(error) if name.startswith("disk") else "flash-failed"
            answer = {"error": [code, str(error.errno)]}
        except BaseException:
            self._line.drain()
            raise
        finally:
            self._line.guard(False)
        print("agent:", json.dumps(answer))

    # What is here

    # Made on first use: a board whose flash has failed is to be asked for its report.
    @property
    def _flash(self):
        if self._opened is None:
            self._opened = CodeFlash(self._board.flash(), self._board.BLOCK_SIZE)
        return self._opened

    def identify(self):
        """Which board this is, and what it reported last; blocks: of its flash, 0 if it fails."""
        last = boot.report()
        try:
            blocks = self._flash.manifest_block + 1
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
        }

    def code(self):
        """Take the manifest in flash as the one that compare() is about, and describe it."""
        self._manifest, self._sure = None, set()
        manifest, blank = self._flash.manifest()
        self._accept(manifest)
        return self._describe(manifest, blank)

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
            if self._manifest.matches(block, buf):
                self._sure.add(block)
            else:
                bad.append(block)
        return bad

    def _accept(self, manifest):
        manifest.accept(self._board.PRODUCT, self._flash.block_size, self._flash.manifest_block)
        self._manifest = manifest

    @staticmethod
    def _describe(manifest, blank):
        return {
            "product": manifest.product,
            "version": manifest.version,
            "build": manifest.build_name,
            "blocks": manifest.block_count,
            "crc": unpack("<I", manifest.raw[-4:])[0],
            "blank": blank,
        }

    # New code

    def offer(self):
        """Receive a manifest as a parcel, and take it as the one to flash, if it is for here."""
        self._manifest, self._sure = None, set()
        buf = memoryview(bytearray(MAX_SIZE))
        while True:
            _, size = self._line.parcel(buf)
            if size is not None:
                break
            self._line.write(b"~")
        manifest = self._answering(Manifest, bytes(buf[:size]))
        self._answering(self._accept, manifest)
        self._line.write(b"=")
        return self._describe(manifest, True)

    def blocks(self):
        """Receive blocks of the offered manifest as parcels, and program them (I1)."""
        manifest, flash = self._manifest, self._flash
        buf = self._scratch.get()
        written = 0
        while True:
            block, size = self._line.parcel(buf)
            if size == 0:
                return written
            right = size == len(buf) and block < manifest.block_count
            if not right or not manifest.matches(block, buf):
                self._line.write(b"~")
                continue
            self._sure.discard(block)
            self._answering(self._replace, block, buf)
            if self._answering(flash.crc, block) != manifest.crc(block):
                self._answering(self._fail, "flash-verify", str(block))
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
        self._replace(flash.manifest_block, manifest.raw)
        if not flash.holds(manifest):
            raise LifeboatError("flash-verify", "manifest")
        return True

    # Backups

    def members(self):
        """The members, and the committed copies in the slots of each."""
        try:
            manifest, _ = self._flash.manifest()
        except LifeboatError:
            manifest = None
        found = Report()
        self._members = survey(self._attached(), self._board.REGION_LBAS, found)
        choose_home(self._members, manifest and manifest.build, found)
        if manifest:
            check(self._members, manifest)
        self._copies = {}
        answer = [self._describe_member(member) for member in self._members]
        return {"members": answer, "reasons": found.data["reasons"]}

    def _describe_member(self, member):
        copies = []
        for slot, commit in enumerate(member.records if member.usable else ()):
            if not commit:
                continue
            copy = {"slot": slot, "generation": commit.generation}
            try:
                manifest = member.region.manifest(slot)
                if not commit.describes(manifest):
                    raise LifeboatError("commit-field")
                copy.update(self._describe(manifest, True))
                self._copies[member.name, slot] = Copy(member, slot), manifest
            except LifeboatError as error:
                copy["error"] = error.code
            except OSError as error:
                copy["error"] = disk_error(error)
            copies.append(copy)
        return {"disk": member.name, "state": member.state, "copies": copies}

    def check_copy(self, disk, slot, first, count):
        """The numbers of the damaged blocks in [first, first + count) of a copy."""
        copy, manifest = self._copies[disk, slot]
        if manifest.block_size != self._flash.block_size:
            raise LifeboatError("manifest-board", str(manifest.block_size))
        last = min(first + count, manifest.block_count)
        scratch, good = self._scratch, manifest.matches
        return [block for block in range(first, last) if not copy.read(block, scratch, good)]

    def power_on(self):
        """What a power-on does, without one: inspect, recover, back up."""
        self._devices = self._opened = None
        return boot.power_on(self._board).data

    def drill(self, block):
        """Erase a block of the code, of which every member was just seen to hold a good copy."""
        self.code()
        if self.compare(0, self._manifest.block_count):
            raise LifeboatError("flash-changed", "damaged before the drill")
        self.members()
        home = [member for member in self._members if member.home]
        for member in home:
            copy = Copy(member, member.newest_slot)
            if member.state != "level" or not copy.read(
                block, self._scratch, self._manifest.matches
            ):
                raise LifeboatError("backup-none", member.name)
        if not home:
            raise LifeboatError("backup-none")
        self._replace(block, b"\xff\xff\xff\xff")
        return len(home)

    # The verdict is about other code from here on: not even a soft reset may believe it.
    def _replace(self, block, data):
        area = self._board.retained()
        if area:
            area[:4] = bytes(4)
        self._flash.replace(block, data)

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
        from .journal import entries

        self.members()
        for member in self._members:
            if member.usable and member.region.journal_pages:
                print(member.name)
                for entry in entries(member.region, bytearray(UNIT)):
                    print(" ", entry[1], *map(_printable, entry[5:8]), *entry[8:])

    # Disks, for a person's partitioning session

    # To start a board's disks anew would take them from under those who use them already.
    def _attached(self):
        if self._devices is None:
            self._board.start()
            self._devices = list(self._board.disks())
        return self._devices

    def disks(self):
        """The disks, each with its size or why there is none."""
        self._disks = {}
        self._windows = {}
        answer = []
        for i, dev in enumerate(self._attached()):
            disk = Checked(dev, "disk%d" % i)
            about = {"disk": disk.name}
            try:
                disk.ioctl(INIT, 0)
                about["sectors"], about["lba_size"] = geometry(disk)
                self._disks[disk.name] = disk
                for key in ("model", "serial"):
                    about[key] = str(getattr(dev, key, ""))
            except OSError as error:
                about["error"] = disk_error(error)
            answer.append(about)
        return answer

    def disk_allow(self, name, ranges):
        """Let disk_write() write to these ranges, [first LBA, sectors] each, and nowhere else."""
        disk = self._disks[name]
        self._windows[name] = [(lba, Window(disk, lba, count)) for lba, count in ranges]

    def disk_read(self, name, lba, sectors):
        """Send sectors as frames."""
        disk = self._disks[name]
        lba_size = geometry(disk)[1]
        buf = memoryview(bytearray(FRAME))
        zeros = bytes(FRAME)
        under_way = 0
        while sectors:
            count = min(sectors, FRAME // lba_size)
            piece = buf[: count * lba_size]
            self._answering(disk.readblocks, lba, piece)
            self._line.send(piece, zeros[: len(piece)])
            under_way += 1
            if under_way == FRAMES:
                self._line.acknowledged(1)
                under_way -= 1
            lba += count
            sectors -= count
        self._line.acknowledged(under_way)

    def disk_write(self, name, lba):
        """Receive sectors as parcels, whose numbers count from lba, and write them."""
        buf = memoryview(bytearray(MAX_SIZE))
        while True:
            offset, size = self._line.parcel(buf)
            if size == 0:
                return
            if size is None:
                self._line.write(b"~")
                continue
            self._answering(self._write, name, lba + offset, buf[:size])
            self._line.write(b"=")

    def _write(self, name, lba, data):
        for first, window in self._windows.get(name, ()):
            end = first + window.count
            if first <= lba and lba + len(data) // window.size <= end:
                return window.writeblocks(lba - first, data)
        self._fail("disk-in-use", "nobody allowed LBA %d" % lba)

    def disk_flush(self, name):
        """Wait until all that was written is on the medium."""
        self._disks[name].ioctl(SYNC, 0)

    def disk_first_nonzero(self, name, lba, sectors):
        """The first LBA in [lba, lba + sectors) that is not all zero, or None."""
        disk = self._disks[name]
        lba_size = geometry(disk)[1]
        buf = memoryview(bytearray(MAX_SIZE))
        zeros = bytes(MAX_SIZE)
        end = lba + sectors
        for at in range(lba, end, MAX_SIZE // lba_size):
            piece = buf[: min(MAX_SIZE, (end - at) * lba_size)]
            disk.readblocks(at, piece)
            if piece != zeros[: len(piece)]:
                while piece[:lba_size] == zeros[:lba_size]:
                    piece = piece[lba_size:]
                    at += 1
                return at
        return None

    # The line

    @staticmethod
    def _fail(code, detail):
        raise LifeboatError(code, detail)

    # Call something in the middle of an exchange; when it fails the host hears of it first.
    def _answering(self, action, *args):
        try:
            return action(*args)
        except Exception:
            self._line.write(b"!")
            raise


# What stands on a disk is anybody's.
def _printable(text):
    return "".join(chr(c) if 32 < c < 127 else "?" for c in text.rstrip(b"\0")) or "-"
