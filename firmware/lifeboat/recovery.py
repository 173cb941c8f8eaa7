"""S4: put the backup back into flash, damaged blocks only."""

from micropython import const

from .errors import LifeboatError
from .inspecting import damaged_blocks
from .members import copies

# How often the repair of a block is tried, all power-ons together; a person may try again.
_TRIES = const(3)

# How many copies that may come back are always read, before others and whatever they hold (I11).
_SURE = const(4)


class Plan:
    """How to make the flash hold the code of one manifest.

    bad: damaged blocks; sources: block -> Copy; lost: blocks without a good copy;
    manifest_copy: Copy whose manifest goes into flash, or None when flash's is to stay;
    older: reason code when it is not the
    code that ran last; good: what a copy's block must pass before
    the first erase.
    """

    def __init__(self, manifest, bad, manifest_copy, members, trust, own=False):
        self.manifest = manifest
        self.bad = bad
        self.manifest_copy = manifest_copy
        self.sources = {}
        self.lost = []
        self.older = ""
        self.good = manifest.crc_matches
        # Copies that claim to hold the build, those of the own set first: only their blocks are
        # expected to be right, but any slot with the right bytes will do.
        # (In two lists: MicroPython's sort() leaves equals in any order.)
        self.claims, others, self._rest = [], [], []
        back = 0
        for copy in copies(members):
            mine = copy.member.own
            if copy.claims(manifest) and (mine or not own):
                (self.claims if mine else others).append(copy)
            elif not own:
                self._rest.append(copy)
                if copy.commit:
                    back += trust.may_restore(copy.commit.build, mine)
        self.claims += others
        # Reads that are left for other copies that may come back, before any slot is tried at all.
        self._kept = min(max(0, _SURE - len(self.claims)), back) * manifest.block_count

    def fetch(self, block, scratch, good):
        """Return a Copy of a block for which good(block, data) holds, bytes in scratch; or None.

        A copy that fails goes to the end of the line, so that copies full of garbage cost a read
        or two each, not one for every block.
        """
        for line, kept in (self.claims, 0), (self._rest, self._kept):
            for _ in range(len(line)):
                copy = line[0]
                if scratch.short(kept):
                    return None
                if copy.read(block, scratch, good):
                    return copy
                if line is self.claims:
                    copy.bad.add(block)
                line.append(line.pop(0))
        return None

    def complete(self, scratch, all_blocks):
        """Find a source for every damaged block, and return the plan; called again it goes on.

        all_blocks: name every lost block; else stop at the first: the plan is of no use then.
        """
        for block in self.bad:
            if block in self.sources or block in self.lost:
                continue
            copy = self.fetch(block, scratch, self.good)
            if copy:
                self.sources[block] = copy
                continue
            self.lost.append(block)
            if not all_blocks or scratch.spent:
                break
        return self


def bad_copies(plan, scratch):
    """Return [(Copy, block)] of the own copies of the plan's build that are to be rewritten.

    Those that the repair met, and those of the same blocks that it did not need to read: what
    rotted in flash is not to rest on a single good copy afterwards.
    """
    bad = []
    good = plan.manifest.crc_matches
    for copy in plan.claims:
        if not copy.member.writable or copy.commit.read_only:
            continue
        for block in plan.bad:
            right = plan.sources.get(block) is copy or copy.read(block, scratch, good)
            if block in copy.bad or not right:
                bad.append((copy, block))
    return bad


# (manifest, Copy) of the builds that may come back, the newest first, one of each build.
def _backups(members, trust):
    found, builds = [], []
    for copy in copies(members):
        if copy.commit:
            # Generations on disks of different sets don't compare; the own set counts first.
            found.append((copy.member.own, trust.rank(copy.commit), -len(found), copy))
    for own, _, _, copy in sorted(found, reverse=True):
        build = copy.commit.build
        if build not in builds and trust.may_restore(build, own):
            manifest = copy.load(trust)
            if manifest and trust.leaves_memory(manifest):
                builds.append(build)
                yield manifest, copy


def assess(flash, found, members, trust, scratch):
    """Return the Plan that makes flash whole again; plan.lost tells when none does; None: nothing
    to restore is here.

    found: the Inspection; scratch: a Scratch of one block. Nothing is written. First choice is the
    code that is in flash now; when some block of it has no good copy anywhere, the newest known
    backup that is whole: an older version that runs is better than none. What the memory does not
    know never takes the place of what the flash names.
    """
    first, flashed = None, found.manifest
    builds = trust.memory.builds
    if flashed:
        first = Plan(flashed, found.bad, None, members, trust)
        first.complete(scratch, not builds)
        if found.manifest_state == "padding":
            first.manifest_copy = manifest_copy_of(members, flashed)
        if not first.lost or not builds:
            return first
    for manifest, copy in _backups(members, trust):
        if flashed and manifest.build == flashed.build:
            continue
        # Bytes of the build that ran last are right whoever has them; others come from the own
        # set.
        newest = builds and manifest.build == builds[-1][0]
        plan = Plan(manifest, damaged_blocks(flash, manifest), copy, members, trust, not newest)
        # It may put other code over good blocks: every source is hashed before the first erase.
        plan.good = manifest.right
        if first or (builds and not newest):
            known = not builds or trust.memory.age(manifest.build) >= 0
            plan.older = "older-build" if known else "other-build"
        if not plan.complete(scratch, False).lost:
            return plan
        first = first or plan
    return first and first.complete(scratch, True)  # the report lists all that is lost


def manifest_copy_of(members, manifest):
    """Return a Copy that has this manifest, or None.

    The manifest in flash is good, what follows it is not: its block may be erased only when a
    disk has the manifest too.
    """
    for copy in copies(members):
        if copy.holds(manifest):
            return copy
    return None


def act(flash, plan, scratch, findings, memory):
    """Carry out a Plan without lost blocks; raises LifeboatError or OSError when it fails.

    Order: blocks, then the manifest. A power cut before the manifest block is touched leaves
    the old manifest or none, and the next assessment comes to the same plan for what is left;
    one while it is written leaves none, and all blocks right.

    A copy whose bytes are found wrong on the way is passed by; LifeboatError(block-lost): no copy
    is left, and another plan may still succeed.
    """
    manifest = plan.manifest
    for block in plan.bad:
        source = _program(flash, plan, block, scratch, findings, memory)
        findings.repaired(block, source.member.name)
    if plan.manifest_copy:
        block = flash.manifest_block
        _count(memory, findings, block, flash.program_manifest, manifest)
        findings.repaired(block, plan.manifest_copy.member.name)


# Program a block from the first copy whose bytes in hand match both sums (I1, I12): program()
# looks. A further try is counted before it, and what a disk holds is not to count: then the bytes
# are looked at before.
def _program(flash, plan, block, scratch, findings, memory):
    manifest = plan.manifest
    good = manifest.right
    copy = plan.sources[block]
    if not copy.read(block, scratch, good if memory.failed.get(block) else _any):
        copy = plan.fetch(block, scratch, good)
    while copy:
        try:
            _count(memory, findings, block, flash.program, manifest, block, scratch.get())
            return copy
        except LifeboatError as error:
            if error.code != "digest-wrong":
                raise
        copy.bad.add(block)
        copy = plan.fetch(block, scratch, good)
    plan.lost.append(block)
    raise LifeboatError("block-lost", str(block))


def _any(block, data):
    return True


# Repair a block. What failed is remembered, and tried again only when the new try could be
# remembered before it: what can't succeed is not to wear the flash out (I8).
def _count(memory, findings, block, repair, *args):
    tries = memory.failed.get(block, 0)
    if tries >= _TRIES:
        raise LifeboatError("repair-limit", str(block))
    if tries:
        memory.count_failure(block, tries + 1)
    try:
        repair(*args)
    except (LifeboatError, OSError) as error:
        if not tries and memory.state == "ok" and error.args[0] != "digest-wrong":
            try:
                memory.count_failure(block, 1)
            except LifeboatError as why:
                findings.reason(why.code, "flash")
        raise
    if tries:
        memory.count_failure(block, 0)
