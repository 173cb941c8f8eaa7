"""S4: put the backup back into flash, damaged blocks only."""

from errno import EIO

from .errors import LifeboatError
from .inspecting import damaged_blocks
from .region import UNIT


class Copy:
    """A slot that may hold a copy of blocks: which member, which slot.

    bad: blocks of it that should be right but are not.
    """

    def __init__(self, member, slot):
        self.member = member
        self.slot = slot
        self.bad = set()

    def read(self, block, scratch, good):
        """Read a block; return whether good(block, data) holds. A failing disk is dropped."""
        region = self.member.region
        buf = scratch.get()
        at = region.block_at(self.slot, block, len(buf))
        if at + len(buf) > region.slot_at(self.slot) + region.slot_size:
            return False
        try:
            region.read(at, buf)
        except OSError as error:
            self.member.io_error(error)
            if error.errno != EIO:
                scratch.drop()
            return False
        return good(block, buf)


class Plan:
    """How to make the flash hold the code of one manifest.

    bad: damaged blocks; sources: block -> Copy; lost: blocks without a good copy;
    manifest_copy: Copy whose manifest goes into flash, or None when flash's is to stay;
    older: whether a newer build could not be made whole.
    """

    def __init__(self, manifest, bad, manifest_copy):
        self.manifest = manifest
        self.bad = bad
        self.manifest_copy = manifest_copy
        self.copies = []
        self.sources = {}
        self.lost = []
        self.older = False


# All slots of all members, those that claim to hold the build first: only their copies are
# expected to be right, but any copy with the right bytes will do.
def _copies(members, manifest):
    claim, other = [], []
    for member in members:
        if member.usable:
            for slot, commit in enumerate(member.records):
                copies = claim if commit and commit.describes(manifest) else other
                copies.append(Copy(member, slot))
    return claim, other


# Find a copy of a block for which good(block, data) holds, and leave its bytes in scratch.
def _fetch(plan, block, scratch, good):
    claim, other = plan.copies
    for copy in claim:
        if copy.member.usable:
            if copy.read(block, scratch, good):
                return copy
            copy.bad.add(block)
    for copy in other:
        if copy.member.usable and copy.read(block, scratch, good):
            return copy
    return None


# Find a source for every damaged block. The first plan names all blocks that are lost; a further
# one is of no use once a block is lost.
def _complete(plan, members, scratch, further):
    manifest = plan.manifest
    plan.copies = _copies(members, manifest)

    good = manifest.crc_matches
    for block in plan.bad:
        if further and plan.lost:
            break
        copy = _fetch(plan, block, scratch, good)
        if copy:
            plan.sources[block] = copy
        else:
            plan.lost.append(block)
    return plan


def repair_plan(manifest, bad, members, scratch):
    """Return the Plan for damaged blocks of code that is to stay what it is; see assess()."""
    return _complete(Plan(manifest, bad, None), members, scratch, False)


def bad_copies(plan, scratch):
    """Return [(Copy, block)] of the copies of the plan's build that are to be rewritten.

    Those that the repair met, and those of the same blocks that it did not need to read: what
    rotted in flash is not to rest on a single good copy afterwards.
    """
    bad = []
    good = plan.manifest.crc_matches
    for copy in plan.copies[0]:
        for block in plan.bad:
            if not copy.member.home:
                break
            if block in copy.bad or not (
                plan.sources[block] is copy or copy.read(block, scratch, good)
            ):
                bad.append((copy, block))
    return bad


# Manifests in slots, as (manifest, Copy): those of committed slots first, sets with more
# members before others, newer before older, one of each build.
def _backups(members, accept):
    slots = []
    for member in members:
        if member.usable:
            for slot, commit in enumerate(member.records):
                generation = commit.generation if commit else 0
                slots.append((member.state != "foreign", generation, Copy(member, slot)))
    slots.sort(key=lambda s: (s[1] > 0, s[0], s[1]), reverse=True)
    builds = set()
    for _, _, copy in slots:
        if not copy.member.usable:
            continue
        commit = copy.member.records[copy.slot]
        if commit and commit.build in builds:
            continue
        try:
            manifest = copy.member.region.manifest(copy.slot)
            accept(manifest)
        except LifeboatError:
            continue
        except OSError as error:
            copy.member.io_error(error)
            continue
        if manifest.build not in builds:
            builds.add(manifest.build)
            yield manifest, copy


def assess(flash, found, members, product, scratch):
    """Return the Plan that makes flash whole again; plan.lost tells when none does.

    found: the Inspection; scratch: a Scratch of one block. Nothing is written. First choice is the
    code that is in flash now; when some block of it has no good copy anywhere, the newest
    backup that is whole: an older version that runs is better than none.
    """

    def accept(manifest):
        manifest.accept(product, flash.block_size, flash.manifest_block)

    first = None
    if found.manifest:
        first = repair_plan(found.manifest, found.bad, members, scratch)
        if found.manifest_state == "padding":
            first.manifest_copy = manifest_copy_of(members, found.manifest)
        if not first.lost:
            return first
    for manifest, copy in _backups(members, accept):
        if found.manifest and manifest.build == found.manifest.build:
            continue
        plan = Plan(manifest, damaged_blocks(flash, manifest), copy)
        _complete(plan, members, scratch, bool(first))
        plan.older = bool(first)
        if not plan.lost:
            return plan
        first = first or plan
    return first


# The manifest in flash is good, what follows it is not: its block may be erased only when a
# disk has the manifest too.
def manifest_copy_of(members, manifest):
    for copy in _copies(members, manifest)[0]:
        if not copy.member.usable:
            continue
        try:
            if copy.member.region.holds_manifest(copy.slot, manifest, bytearray(UNIT)):
                return copy
        except OSError as error:
            copy.member.io_error(error)
    return None


def act(flash, plan, scratch, report):
    """Carry out a Plan without lost blocks; raises LifeboatError or OSError when it fails.

    Order: blocks, then the manifest. A power cut before the manifest block is touched leaves
    the old manifest or none, and the next assessment comes to the same plan for what is left;
    one while it is written leaves none, and all blocks right.
    """
    manifest = plan.manifest
    # I1: the very bytes that are hashed here are programmed; what was read before is gone.
    good = manifest.matches
    for block in plan.bad:
        copy = plan.sources[block]
        if not (copy.member.usable and copy.read(block, scratch, good)):
            copy = _fetch(plan, block, scratch, good)
        if copy is None:
            plan.lost.append(block)
            raise LifeboatError("block-lost", str(block))
        flash.replace(block, scratch.get())
        report.repaired(block, copy.member.name)
    for block in damaged_blocks(flash, manifest, plan.bad):
        raise LifeboatError("flash-verify", str(block))
    if plan.manifest_copy:
        flash.replace(flash.manifest_block, manifest.raw)
        if not flash.holds(manifest):
            raise LifeboatError("flash-verify", "manifest")
        report.repaired(flash.manifest_block, plan.manifest_copy.member.name)
