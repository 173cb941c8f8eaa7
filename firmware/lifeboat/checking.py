"""S2: whose the disks are, and which of them hold the backup of a given build."""

from binascii import hexlify

from .members import CLAIMED, FAILED, LEVEL, NEW, OURS


def choose_own(members, trust, findings, adopt=None):
    """Decide which members are the controller's own (I9, I10); the others are only read.

    The memory decides. Before it has begun it is the only set that is here, on regions that lie
    as they are made, with a head and a tail that agree. adopt: the set id that a person named.
    Returns whether the own set is known.
    """
    memory = trust.memory
    set_id = adopt or memory.set_id or memory.state != "ok" and _only_set(members, trust)
    seen, names, own = set(), set(), False
    for member in members:
        region = member.region
        if not member.readable:
            continue
        names.add(hexlify(region.set_id[:4]).decode())
        if region.set_id != set_id:
            continue
        # Of two that say they are the same disk only the first is.
        ours = region.region_id not in seen and _is_ours(member, trust, adopt)
        if ours:
            seen.add(region.region_id)
        if not member.readable:
            continue
        own = True
        member.reach = OURS
        if not ours:
            member.reach = NEW
            member.tell("member-new")
        elif region.claimed:
            member.reach = CLAIMED
            member.tell("region-claimed")
        elif region.read_only:
            member.tell("region-version")
    if names and not own:
        named = trust.remembers or adopt
        findings.reason("set-other" if named else "set-unclear", "", " ".join(sorted(names)))
    _report_missing(members, set_id, memory, findings)
    return own


# Whether a member of the own set may be written. The memory knows it by its ids and place. Else
# its head and tail have to agree, and unless a person named the set it has to look as it was made;
# on a board with a memory an LBA of board.py is no such place (I10).
def _is_ours(member, trust, adopt):
    region = member.region
    if adopt or trust.remembers:
        return region.known or (adopt and region.agreed)
    return (
        region.agreed
        and (region.place != "lba" or trust.memory.state == "none")
        and member.attempt(region.looks_made, member.unit.get())
    )


# The set id of the only set that is here, or None. One that holds code for this board counts
# before those that hold none.
def _only_set(members, trust):
    holding, empty = set(), set()
    for member in members:
        if member.readable and member.region.agreed:
            set_id = member.region.set_id
            empty.add(set_id)
            for copy in member.copies:
                if copy.load(trust):
                    holding.add(set_id)
                    break
    sets = holding or empty
    return sets.pop() if len(sets) == 1 else None


# A failed disk whose region could not be read may be any of those that seem to be missing.
def _report_missing(members, set_id, memory, findings):
    known = set_id and set_id == memory.set_id
    count = min(memory.members[0][6], 64) if known else 0
    here, unread = set(), 0
    for member in members:
        region = member.region
        if region is None:
            unread += member.reach == FAILED
        elif region.set_id == set_id and (region.known or member.reach == OURS or not known):
            here.add(region.member)
            count = count or region.members
    for index in range(count):
        if index not in here:
            unread -= 1
            if unread < 0:
                findings.missing(index, count)


def check(members, manifest, trust):
    """Note for every own member whether it holds the backup of this manifest.

    Reads one manifest per member, two when its newest copy is of other code, and no block.
    """
    for member in members:
        newest = holding = None
        for copy in member.copies if member.reach == OURS else ():
            if copy.commit:
                order = copy.commit.order
                if not newest or order > newest.commit.order:
                    newest = copy
                if copy.holds(manifest) and (not holding or order > holding.commit.order):
                    holding = copy
        # Should the memory be lost one day, the generation says which code ran last: when the
        # newest copy is of other code, this code needs a newer one. What only claims to be newer
        # does not count, and builds that the memory knows are in its order.
        if holding and (
            newest.commit.order == holding.commit.order
            or trust.memory.age(newest.commit.build) >= 0
            or not newest.load(trust)
        ):
            member.backup = LEVEL
