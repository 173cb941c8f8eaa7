"""A power-on with what the extras add to it: trials of new builds, parity, evidence."""

from .errors import LifeboatError
from .members import CREATED, LEVEL, MENDED
from .records import UNIT

try:
    from .trying import PowerOn as _PowerOn
except ImportError:
    from .poweron import PowerOn as _PowerOn
try:
    from . import parity
except ImportError:
    parity = None
try:
    from .evidence import Keeper, Log
except ImportError:
    Keeper = None


class PowerOn(_PowerOn):
    """A power-on that also uses and makes parity, and keeps evidence of what it repairs."""

    trying = _recovers = False
    _keeper = None
    _rebuilt = None
    _session = 0
    _parity = ()  # a dictionary: of members by name, what is known of it

    # The buffer of a flash that is not mapped is taken now, as the block's is: later the heap is
    # fragmented.
    def _survey(self):
        if self.found.damaged and self.flash:
            try:
                self.flash.crc(self.flash.manifest_block, 0, UNIT)
            except OSError:
                pass
        super()._survey()

    def recover(self):
        if not (self.found.damaged and self.flash):
            return super().recover()
        rebuilt = None
        if parity:  # the last in the line of sources, and for nothing else
            self._rebuilt = rebuilt = parity.Rebuilt(self)
            self.members.append(rebuilt)
        self._recovers = True
        try:
            plan = super().recover()
        finally:
            self._recovers = False
            if rebuilt:
                self.members.remove(rebuilt)
        if plan and rebuilt and rebuilt.blocks:
            told = " ".join([str(block) for block in sorted(rebuilt.blocks)])
            self.report.reason("parity-used", rebuilt.member.name, told)
        return plan

    # Called right before a Plan is carried out, too.
    def _tell_bad(self, manifest, bad):
        super()._tell_bad(manifest, bad)
        if self._recovers and Keeper:
            self._watch_flash(manifest)
        if self._recovers and self._rebuilt:
            self._rebuilt.again()

    def _watch_flash(self, manifest):
        if not self._keeper:
            self._keeper = Keeper(self.flash, "power-on")
            if getattr(self.board, "REPAIR", "") == "report":
                self._keeper.first = self._keep_first
        self._keeper.aim = manifest if manifest and self._meant(manifest) else None

    # Whether the flash was to hold this build: blocks of another one differ from it unharmed.
    def _meant(self, manifest):
        found, builds = self.found.manifest, self.trust.memory.builds
        if self.trying:
            return False
        if found or builds:
            return manifest.build == (found.build if found else builds[-1][0])
        return True

    # Evidence comes last: it has the session's number then, and nothing waits for it.
    def run(self):
        super().run()
        if self._keeper and self._keeper.any and self.members:
            self.report.attempt("internal", "evidence", self._keep)

    # Evidence first: what a power cut in the repair would tear is on the disks before. Disks that
    # are slow are left out, as while intact code waits.
    def _keep_first(self):
        self.watch.limited = True
        try:
            if not self._session:
                self._session = Log(self.members, self.report).session()
            # The scratch holds the bytes that the block is to get.
            for _ in self._keeper.write(self.members, self._session, memoryview(bytearray(UNIT))):
                pass
        finally:
            self.watch.limited = False

    def _keep(self):
        report = self.report
        told, before = len(report.events), self._writes()
        session, buf = report.data.get("session", 0), self.scratch.get()
        for _ in self._keeper.write(self.members, session, buf):
            pass
        if report.events[told:]:  # I13
            for _ in Log(self.members, report).tell(report.events[told:]):
                pass
        report.data["disk_writes"] += self._writes() - before

    def _writes(self):
        return sum([member.region.disk.writes for member in self.members if member.region])

    def finish(self, manifest, plan):
        super().finish(manifest, plan)
        if parity and self.clear and not self.trying and not manifest.read_only:
            self._parity = {}
            for member in self.members:
                if member.backup in (LEVEL, CREATED, MENDED):
                    self._parity[member.name] = parity.NONE
                    self._attempt(member, self._make_parity, member, manifest)

    # A backup without parity gets it, whenever it was made. What stands behind a new one is of
    # what the slot held before.
    def _make_parity(self, member, manifest):
        for copy in member.copies:
            if copy.claims(manifest):
                break
        else:
            return
        its = parity.Parity(copy, manifest).load()
        if its.newer or not its.room:
            return
        if its.sums and member.backup != CREATED:
            self._parity[member.name] = parity.LEVEL
            return
        try:
            for _ in its.make(self.flash, self.scratch.get()):
                if member.disk.slow:
                    raise OSError
        except OSError:
            if member.disk.slow:  # the scrubber has the time
                raise LifeboatError("backup-late", "parity") from None
            raise
        self._parity[member.name] = parity.CREATED

    def _judge(self):
        super()._judge()
        for entry in self.report.data["members"]:
            if entry["disk"] in self._parity:
                entry["parity"] = self._parity[entry["disk"]]
