"""New code by the disks, over the line: what the agent does where the boot stage tries builds."""

from binascii import hexlify, unhexlify

from . import trial
from .stage import Stage
from .update import Update


class UpdateAgent:
    """What the host tools do with builds that are not in flash; see agent.Agent."""

    updates = True
    _stage = _work = None

    def rollback(self, build):
        """Make the flash hold a build of which a copy is here: 12 hex digits or more of its id.

        The board is to be reset then.
        """
        self._let_go()
        manifest, count = Update(self._board, self._attached()).rollback(unhexlify(build))
        return {"version": manifest.version, "written": count}

    def stage(self, again=False):
        """Receive a manifest as a parcel, and begin to stage its build.

        again: also one that was rejected.
        """
        self._let_go()
        self._stage = self._work = None
        raw, disks = self._parcel(), self._attached()
        self._stage = stage = self._answering(Stage, self._board, raw, disks, again)
        self._work = stage.gather()
        self._line.write(b"=")
        return {
            "version": stage.version,
            "disks": stage.names,
            "reasons": stage.report.data["reasons"],
        }

    def gather(self, count):
        """Take so many blocks more of what is here already; whether there may be others."""
        for _ in range(count):
            try:
                next(self._work)
            except StopIteration:
                return False
        return True

    def needed(self):
        """Which blocks are still to be sent, as [first, count]."""
        ranges = []
        for block in self._stage.needed:
            if ranges and sum(ranges[-1]) == block:
                ranges[-1][1] += 1
            else:
                ranges.append([block, 1])
        return ranges

    def put(self):
        """Receive blocks of the build that is staged, as parcels, and write them on the disks."""
        stage = self._stage
        buf = memoryview(bytearray(self._board.BLOCK_SIZE))
        written = 0
        while True:
            block, size = self._line.parcel(buf)
            if size == 0:
                return written
            if size is None:
                self._line.write(b"~")
                continue
            self._answering(stage.put, block, buf[:size])
            written += 1
            self._line.write(b"=")

    def commit(self):
        """Make it a candidate; the disks that hold it."""
        return self._stage.commit()

    def arm(self, starts=None):
        """Let the next power-on try it; then as trial()."""
        self._stage.arm(starts)
        self._stage = self._work = None
        return self.trial()

    def trial(self):
        """The newest trial, and what disks offer."""
        now = trial.Trial(self._trusted().memory)
        offers = []
        if not now.open:
            self._let_go()
            update = Update(self._board, self._attached())
            for manifest, copy in update.offers():
                offers.append(
                    {
                        "version": manifest.version,
                        "build": hexlify(manifest.build[:6]).decode(),
                        "disk": copy.member.name,
                    }
                )
        return {"trial": now.describe(), "offers": offers}

    def accept(self, build, starts=None):
        """Let the next power-on try a build that a disk offers; then as trial()."""
        self._let_go()
        Update(self._board, self._attached()).accept(unhexlify(build), starts)
        return self.trial()

    def confirm(self):
        """Let the build that is tried stay; then as trial()."""
        self._let_go()
        self._attached()
        trial.confirm(self._board)
        return self.trial()

    def reject(self, reason):
        """The next power-on brings the old build back; then as trial()."""
        trial.turn_back(self._board, reason)
        return self.trial()

    # A person puts other code into flash: that ends a trial.
    def _end_trial(self):
        now = trial.Trial(self._trusted().memory)
        if now.open:
            now.end(trial.DROPPED, "flash")
