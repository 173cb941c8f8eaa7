"""journal.py and `lifeboat log`: rings made by hand from docs/format.md, in every state."""

import gc
import json
import random
import re
import sys
import time
import types
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import handmade
import pytest
from handmade import entry

import lifeboat as firmware
from fakes import board as sim
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import formats, journal, reasons, region

OTHER_ID = bytes(range(32, 48))
START = 4096 + handmade.AFTER_SLOTS  # of the journal on the disk
DAY = 86400
NOON = 1763640000  # 2025-11-20 12:00:00 UTC


@pytest.fixture
def disk_file(tmp_path):
    def make(pages, name="disk.img", **header):
        path = tmp_path / name
        path.write_bytes(handmade.journal_disk(pages, **header))
        return path

    return make


def read(path, kind=Disk):
    with kind(path) as disk:
        return journal.read(disk, region.find(disk).header)


def code(function, *args):
    with pytest.raises(LifeboatError) as caught:
        function(*args)
    return caught.value.code


def single(count, size=1):
    """`count` writes of `size` entries each, numbered from 1 on, all of one session."""
    numbers = iter(range(1, count * size + 1))
    return [
        [entry(next(numbers), 1, b"found", b"", b"flash", 7, 1) for _ in range(size)]
        for _ in range(count)
    ]


# --- reading the ring


def test_an_empty_journal_has_no_entries(disk_file):
    found = read(disk_file([bytes(4096)] * 32))
    assert (found.units, found.used, found.damaged, found.entries) == (32, 0, (), ())


def test_a_region_without_a_journal_says_so(disk_file):
    assert code(read, disk_file([], journal=(0, 0), minor=0)) == "journal-none"
    assert code(read, disk_file([], journal=(4096, 2))) == "journal-none"


def test_the_two_pages_of_a_pair_share_their_entries(disk_file):
    pages, last = handmade.ring(single(3))
    assert last == 0
    found = read(disk_file(pages))
    assert found.used == 2
    assert [e.number for e in found.entries] == [1, 2, 3]


@pytest.mark.parametrize("units", [2, 4, 32])
@pytest.mark.parametrize("size", [1, 5, 62, 63, 130])
def test_a_ring_that_went_round_holds_the_latest_entries_in_order(disk_file, units, size):
    count = units * 80 // size + 3
    pages, _ = handmade.ring(single(count, size), units)
    numbers = [e.number for e in read(disk_file(pages)).entries]
    assert numbers == list(range(numbers[0], count * size + 1))
    if units > 2:  # with one pair a full one is all that is given up
        assert len(numbers) >= (units // 2 - 1) * 31


@pytest.mark.parametrize("tear", [512, 3584])
def test_a_torn_write_costs_at_most_its_own_entries(disk_file, tear):
    writes = single(140)
    for count in range(1, len(writes), 3):
        before, _ = handmade.ring(writes[:count], 6)
        after, last = handmade.ring(writes[: count + 1], 6)
        told = {e.number for e in read(disk_file(before)).entries}
        before[last] = after[last][:tear] + before[last][tear:]
        torn = {e.number for e in read(disk_file(before)).entries}
        # What stood in the page's old content is given up with it only when the ring moves on.
        assert set(range(max(1, count - 60), count + 1)) <= torn
        assert torn <= told | {count + 1}


def test_damaged_pages_are_named_and_the_others_count(disk_file):
    pages, _ = handmade.ring(single(130))
    pages[0] = b"\xa5" * 4096
    pages[1] = pages[1][:600] + b"\xff" + pages[1][601:]
    pages[9] = handmade.page(900, [entry(500, 3, b"lost")], region_id=OTHER_ID)
    pages[10] = handmade.page(901, [entry(501, 3, b"lost")], patch=[(8, b"\x02")])
    found = read(disk_file(pages))
    assert found.damaged == (
        (0, "journal-magic"),
        (1, "journal-crc"),
        (9, "journal-field"),
        (10, "journal-version"),
    )
    assert [e.number for e in found.entries] == list(range(63, 131))


def test_of_two_entries_with_one_number_the_newer_page_counts(disk_file):
    old, new = [entry(5, 2, b"found")], [entry(5, 3, b"lost")]
    for pages in ([(1, old), (2, new)], [(2, new), (1, old)]):
        found = read(disk_file([handmade.page(*page) for page in pages]))
        assert [(e.session, e.event) for e in found.entries] == [(3, "lost")]


def test_of_equal_serials_the_later_page_counts(disk_file):
    old, new = [entry(5, 2, b"found")], [entry(5, 3, b"lost")]
    found = read(disk_file([handmade.page(4, old), handmade.page(4, new)]))
    assert [(e.session, e.event) for e in found.entries] == [(3, "lost")]


def test_numbers_need_not_be_consecutive(disk_file):
    entries = [entry(n, 1, b"found") for n in (3, 9, 10)]
    found = read(disk_file([handmade.page(4, entries), bytes(4096)]))
    assert [e.number for e in found.entries] == [3, 9, 10]


@pytest.mark.parametrize("patch", [[(8, b"\x02")], [(36, b"\x01")]])
def test_a_page_of_a_newer_format_is_named_and_the_journal_only_read(disk_file, lifeboat, patch):
    newer = handmade.page(9, [entry(9, 3, b"lost")], patch=patch)
    path = disk_file([handmade.page(1, [boot(1, 1)]), newer])
    found = read(path)
    assert (found.newer, found.read_only, len(found.entries)) == ([1], True, 1)
    out = lifeboat("log", path)[1]
    assert "page 1: journal-version; of a newer format, not read" in out
    assert "add nothing to this journal" in out
    path = disk_file([newer] * 2)
    with pytest.raises(LifeboatError) as caught:
        read(path)
    assert caught.value.code == "journal-version"
    assert "do not overwrite it" in caught.value.hint


def test_an_unknown_bit_of_the_second_word_only_keeps_from_writing(disk_file):
    page = handmade.page(1, [boot(1, 1)], patch=[(40, b"\x01")])
    found = read(disk_file([page, bytes(4096)]))
    assert (found.read_only, found.damaged, len(found.entries)) == (True, (), 1)


def test_a_page_that_the_disk_does_not_give_is_named_and_the_others_count(disk_file):
    class Bad(Disk):
        def read(self, offset, size):
            if offset <= START + 4096 < offset + size:
                raise LifeboatError("disk-read", "unreadable")
            return super().read(offset, size)

    pages, _ = handmade.ring(single(100))
    found = read(disk_file(pages), Bad)
    assert found.damaged == ((1, "disk-read"),)
    assert [e.number for e in found.entries] == list(range(1, 62)) + list(range(63, 101))


def test_a_journal_without_a_good_page_says_so(disk_file):
    path = disk_file([b"\xa5" * 4096] * 4)
    assert code(read, path) == "journal-none"


def test_what_breaks_the_way_to_the_disk_is_not_taken_for_damage(disk_file):
    class Gone(Disk):
        def read(self, offset, size):
            if offset >= START:
                raise LifeboatError("link-timeout", "no answer")
            return super().read(offset, size)

    with Disk(disk_file([bytes(4096)] * 4)) as disk:
        header = region.find(disk).header
    with Gone(disk_file([bytes(4096)] * 4)) as disk:
        assert code(journal.read, disk, header) == "link-timeout"


# --- several members


def boot(number, session, up=400, verdict=b"RUN", version=b"1.0", cycles=0, time=0):
    return entry(number, session, b"power-on", verdict, version, cycles, 0, time, up)


def damage(number, session, block, up=400, event=b"found", where=b"flash", phase=0):
    return entry(number, session, event, b"", where, block, 1, 0, up, phase)


def members(disk_file, *rings):
    journals = []
    for index, entries in enumerate(rings):
        identity = bytes([index + 1]) * 16
        pages, _ = handmade.ring([[e] for e in entries], 32, identity)
        path = disk_file(pages, f"d{index}", index=index, region_id=identity)
        journals.append(read(path))
    return journals


def stories(history):
    """Per session: number, and (event, disks) of each of its entries."""
    return [
        (s.number, [(e.entry.event, "".join(Path(d).name[-1] for d in e.disks)) for e in s.events])
        for s in history.sessions
    ]


def test_what_several_members_tell_appears_once(disk_file):
    history = journal.merge(
        members(
            disk_file,
            [
                boot(1, 1, cycles=3),
                damage(2, 1, 7),
                boot(3, 2, 500, cycles=9),
                damage(4, 2, 7, 500),
            ],
            [boot(1, 1, cycles=8), damage(2, 1, 7), boot(3, 2, 500, cycles=15)],
        )
    )
    assert stories(history) == [
        (1, [("power-on", "01"), ("found", "01")]),
        (2, [("power-on", "01"), ("found", "0")]),
    ]
    assert sorted(history.sessions[1].cycles.values()) == [9, 15]


def test_what_only_a_later_member_tells_stands_in_its_place(disk_file):
    whole = [boot(1, 1), damage(2, 1, 7), damage(3, 1, 8), damage(4, 1, 9)]
    part = [boot(1, 1), damage(2, 1, 9)]
    for rings in ((part, whole), (whole, part)):
        (session,) = journal.merge(members(disk_file, *rings)).sessions
        assert [e.entry.first for e in session.events] == [0, 7, 8, 9]


def test_what_one_member_tells_twice_was_twice(disk_file):
    ring = [boot(1, 1), damage(2, 1, 7), damage(3, 1, 8), damage(4, 1, 7)]
    (session,) = journal.merge(members(disk_file, ring, ring)).sessions
    assert [e.entry.first for e in session.events] == [0, 7, 8, 7]
    assert all(len(e.disks) == 2 for e in session.events)


def test_members_that_were_apart_keep_sessions_of_one_number_apart(disk_file):
    history = journal.merge(
        members(disk_file, [boot(1, 1), boot(2, 2, 500)], [boot(1, 1), boot(2, 2, 501)])
    )
    assert stories(history) == [
        (1, [("power-on", "01")]),
        (2, [("power-on", "0")]),
        (2, [("power-on", "1")]),
    ]


# --- order: of entries, not of session numbers


def numbers(history):
    return [session.number for session in history.sessions]


def test_a_forged_session_number_does_not_stay_the_last(disk_file, lifeboat):
    forged = boot(2, 0xFFFFFFFF, 5, b"RESCUE")
    rings = [[boot(1, 1), forged, boot(3, 2), boot(4, 3)]]
    assert numbers(journal.merge(members(disk_file, *rings))) == [1, 0xFFFFFFFF, 2, 3]
    history = journal.merge(members(disk_file, *rings, [boot(1, 1), boot(2, 2), boot(3, 3)]))
    assert numbers(history) == [1, 0xFFFFFFFF, 2, 3]
    assert history.last_good is history.sessions[-1]
    path = disk_file(handmade.ring([[e] for e in rings[0]])[0])
    assert lifeboat("log", path)[0] == 0


def test_sessions_go_on_from_1_after_the_highest_number(disk_file):
    last = 0xFFFFFFFF
    one = [boot(7, last - 1), boot(8, last), boot(9, 1), boot(10, 2)]
    two = [boot(1, last), boot(2, 1), boot(3, 2)]
    assert numbers(journal.merge(members(disk_file, one, two))) == [last - 1, last, 1, 2]
    assert numbers(journal.merge(members(disk_file, two, one))) == [last - 1, last, 1, 2]


def test_sessions_that_only_some_members_have_stand_by_their_numbers(disk_file):
    one = [boot(1, 1), boot(2, 2), boot(3, 3), boot(4, 6)]
    two = [boot(1, 1), boot(2, 4), boot(3, 5), boot(4, 6)]
    for rings in ((one, two), (two, one)):
        assert numbers(journal.merge(members(disk_file, *rings))) == [1, 2, 3, 4, 5, 6]


def test_journals_that_contradict_each_other_end_in_some_order(disk_file):
    one, two = [boot(1, 1), boot(2, 2)], [boot(1, 2), boot(2, 1)]
    assert sorted(numbers(journal.merge(members(disk_file, one, two)))) == [1, 2]


def test_to_put_a_journal_in_order_costs_what_its_length_does(disk_file):
    (one,) = members(disk_file, [boot(1, 1)])

    def cost(count):
        entries = [
            formats.Entry(n, n, 0, 400, 0, "power-on", "RUN", "1", 0, 0)
            for n in range(1, count + 1)
        ]
        two = [replace(one, disk=name, entries=tuple(entries)) for name in "ab"]
        start = time.process_time()
        assert len(journal.merge(two).sessions) == count
        return time.process_time() - start

    # The square of it would be 64 times as much. Neighbours and the garbage collector only add:
    # the least of some tries is what it costs.
    gc.disable()
    try:
        least = {count: min(cost(count) for _ in range(5)) for count in (2000, 16000)}
    finally:
        gc.enable()
    assert least[16000] < 24 * least[2000]


def test_a_session_whose_beginning_is_gone_is_found_by_what_it_shares(disk_file):
    running = damage(3, 4, 7, 9000, phase=1)
    (session,) = journal.merge(members(disk_file, [boot(1, 4), running], [running])).sessions
    assert [e.entry.event for e in session.events] == ["power-on", "found"]
    assert len(session.events[1].disks) == 2
    history = journal.merge(members(disk_file, [running]))
    assert (history.sessions[0].verdict, history.sessions[0].begin) == ("", None)


def test_a_number_that_was_given_twice_on_one_member_makes_two_sessions(disk_file):
    history = journal.merge(members(disk_file, [boot(1, 1), damage(2, 1, 7), boot(3, 1, 500)]))
    assert [len(session.events) for session in history.sessions] == [2, 1]


def test_members_of_different_sets_are_told_apart(disk_file):
    one, two = members(disk_file, [boot(1, 1)], [boot(1, 1)])
    foreign = journal.Journal(**{**vars(two), "header": object_with_other_set(two.header)})
    assert [len(h.journals) for h in journal.by_set([one, two])] == [2]
    assert [len(h.journals) for h in journal.by_set([one, foreign])] == [1, 1]


def object_with_other_set(header):
    return type(header)(**{**vars(header), "set_id": OTHER_ID})


# --- what follows from the entries


def test_repairs_per_block_and_those_that_rot_again(disk_file):
    def repair(number, session, block, count):
        return entry(number, session, b"repaired", b"", b"sata0", block, count, up=session)

    entries = [boot(1, 1, 1), repair(2, 1, 7, 1), boot(3, 2, 2), repair(4, 2, 6, 3)]
    entries += [boot(5, 5, 5), repair(6, 5, 7, 1)]
    history = journal.merge(members(disk_file, entries))
    assert history.repairs == {6: [2], 7: [1, 2, 5], 8: [2]}
    assert history.repeated == {7: [1, 2, 5]}


def test_power_cycles_between_sessions_come_from_disks_that_count(disk_file):
    def ring(counts):
        return [boot(n, n, n, cycles=cycles) for n, cycles in enumerate(counts, 1)]

    history = journal.merge(members(disk_file, ring([3, 10, 0, 4]), ring([5, 13, 14, 20])))
    assert [history.cycles_before(s) for s in history.sessions] == [None, (7, 8), (1, 1), (6, 6)]
    assert history.cycles == (1, 15)
    history = journal.merge(members(disk_file, ring([0, 0])))
    assert (history.cycles_before(history.sessions[1]), history.cycles) == (None, None)
    assert journal.merge(members(disk_file, ring([9, 4]))).cycles is None


def test_the_last_good_session_ran_with_a_backup_and_lost_nothing(disk_file):
    entries = [boot(1, 1, 1), boot(2, 2, 2), damage(3, 2, 7, 2, b"lost")]
    entries += [boot(4, 3, 3, b"RUN_DEGRADED"), boot(5, 4, 4, b"RESCUE")]
    assert journal.merge(members(disk_file, entries)).last_good.number == 1
    assert journal.merge(members(disk_file, entries[1:])).last_good is None


def test_endless_ranges_cost_no_memory(disk_file):
    entries = [
        entry(n, 1, event, b"", b"flash", 0xFFFFFFFF, 0xFFFFFFFF)
        for n, event in enumerate((b"found", b"repaired", b"lost", b"changed"), 1)
    ]
    history = journal.merge(members(disk_file, entries))
    assert len(history.repairs) < 65536


def test_each_event_is_told_in_plain_words(disk_file):
    entries = [
        entry(1, 1, b"power-on", b"RUN", b"1.0", 7, 0),
        entry(2, 1, b"power-on", b"RESCUE", b"", 7, 0),
        entry(3, 1, b"found", b"", b"flash", 7, 1),
        entry(4, 1, b"found", b"", b"sata0", 7, 3),
        entry(5, 1, b"repaired", b"", b"sata1", 7, 2),
        entry(6, 1, b"lost", b"", b"flash", 7, 1),
        entry(7, 1, b"created", b"", b"sata0", 4, 30),
        entry(8, 1, b"mended", b"", b"sata0", 2, 2),
        entry(9, 1, b"mended", b"", b"sata0", 0, 0),
        entry(10, 1, b"reason", b"disk-timeout", b"sata1"),
        entry(11, 1, b"reason", b"backup-none"),
        entry(12, 1, b"changed", b"restart", b"app", 3, 1),
        entry(13, 1, b"trial", b"trying", b"2.0", 1, 7),
        entry(14, 1, b"taken-back", b"crash", b"2.0", 1, 7),
        entry(15, 1, b"adopted", b"", b"sata0", 2, 0),
        entry(16, 1, b"adopted", b"", b"sd", 1, 0),
        entry(17, 1, b"novelty", b"x", b"y", 1, 2),
    ]
    (read_back,) = members(disk_file, entries)
    assert [journal.tell(e) for e in read_back.entries] == [
        "power-on with version 1.0: RUN",
        "power-on without verified code: RESCUE",
        "flash: block 7 damaged",
        "sata0: blocks 7 to 9 of its backup copy damaged",
        "flash: blocks 7 to 8 repaired from sata1",
        "flash: block 7 lost",
        "sata0: new backup copy, generation 4, 30 blocks",
        "sata0: blocks 2 to 3 of its backup copy rewritten",
        "sata0: header copies rewritten",
        "sata1: disk-timeout",
        "backup-none",
        "segment app: block 3 changed by a repair in operation (restart)",
        "version 2.0 is tried (start 1, 7 blocks)",
        "version 2.0 did not stay (crash): the one before it is back, 7 blocks",
        "sata0, the first of 2 members, belongs to the controller's own set from now on",
        "sd belongs to the controller's own set from now on",
        "novelty x y 1 2",
    ]


@pytest.mark.parametrize(
    ("up", "time", "phase", "expected"),
    [
        (412, 0, 0, "0.412 s"),
        (412, NOON, 0, "0.412 s"),
        (61000, 0, 1, "1 min 1 s"),
        (5400000, 0, 1, "1 h 30 min"),
        (5400000, NOON, 1, "2025-11-20 12:00:00 UTC"),
        (5400, 0, 3, "1 h 30 min"),
        (5400, NOON, 3, "2025-11-20 12:00:00 UTC"),
        (61, NOON, 2, "1 min 1 s"),
    ],
)
def test_the_moment_of_an_event_is_told_by_the_clock_that_serves_best(up, time, phase, expected):
    told = formats.Entry(1, 1, time, up, phase, "found", "", "flash", 7, 1)
    assert journal.moment(told) == expected


def test_the_advice_is_the_handbooks():
    page = Path(__file__).parents[2] / "docs" / "operations.md"
    section = page.read_text().split("## Reason codes")[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", section, re.M)) == reasons.ADVICE


# --- the command


def machine(disk_file, verdict=b"RUN"):
    """Two members: a repair, a session in operation, and a last session with that verdict."""
    shared = [
        entry(2, 1, b"created", b"", b"sata0", 1, 30, NOON, 400),
        boot(3, 2, 500, time=NOON + DAY, cycles=20),
        entry(4, 2, b"found", b"", b"flash", 7, 1, NOON + DAY, 500),
        entry(5, 2, b"repaired", b"", b"sata0", 7, 1, NOON + DAY, 500),
        boot(6, 3, 600, time=NOON + 3 * DAY, cycles=29),
        entry(7, 3, b"found", b"", b"flash", 7, 1, NOON + 3 * DAY, 5400000, 1),
        entry(8, 3, b"repaired", b"", b"sata0", 7, 1, NOON + 3 * DAY, 5400000, 1),
        boot(9, 4, 700, verdict, time=0, cycles=30),
        entry(10, 4, b"reason", b"disk-timeout", b"sata1", up=700),
    ]
    paths = []
    for index in range(2):
        entries = [boot(1, 1, 400, time=NOON, cycles=8), *shared]
        identity = bytes([index + 1]) * 16
        pages, _ = handmade.ring([[e] for e in entries], 32, identity)
        paths.append(disk_file(pages, f"disk{index}.img", index=index, region_id=identity))
    return paths


def test_log_tells_people_what_happened(lifeboat, disk_file):
    code, out, err = lifeboat("log", *machine(disk_file))
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in (
        "session 1 2025-11-20 12:00:00 UTC RUN version 1.0",
        "session 2 2025-11-21 12:00:00 UTC RUN version 1.0 12 power cycles later",
        "at power-on",
        "0.500 s flash: block 7 repaired from sata0",
        "in operation",
        "2025-11-23 12:00:00 UTC flash: block 7 damaged",
        "session 4 no clock RUN version 1.0 1 power cycle later",
        "0.700 s sata1: disk-timeout: the disk did not answer; check its power, then replace it",
        "sessions 4, numbers 1 to 4; 22 power cycles between the first and the last",
        "repaired 2 repairs of 1 block",
        "again block 7 (2 times): the flash wears out, or its supply is weak",
    ):
        assert line in lines
    assert out.count("block 7 repaired") == 2  # not once for each member


@pytest.mark.parametrize(
    ("verdict", "expected"), [(b"RUN", 0), (b"RUN_DEGRADED", 3), (b"RESCUE", 3)]
)
def test_log_ends_with_3_when_the_last_session_was_bad(lifeboat, disk_file, verdict, expected):
    assert lifeboat("log", "--quiet", *machine(disk_file, verdict)) == (expected, "", "")


def test_log_ends_with_3_when_blocks_were_lost(lifeboat, disk_file):
    pages, _ = handmade.ring([[boot(1, 1), damage(2, 1, 7, event=b"lost")]])
    code, out, _ = lifeboat("log", disk_file(pages))
    assert code == 3
    assert f"flash: block 7 lost: {reasons.ADVICE['block-lost']}" in out


@pytest.mark.parametrize(
    ("later", "damaged"),
    [
        ([], [7]),  # only told, by policy
        ([(b"repaired", b"", b"sata0")], []),
        ([(b"repaired", b"", b"sata0"), (b"found", b"", b"flash")], [7]),
        ([(b"lost", b"", b"flash")], [7]),
        ([(b"reason", b"block-lost", b"flash")], [7]),
        ([(b"lost", b"", b"flash"), (b"repaired", b"", b"sata0")], []),
    ],
)
def test_damage_found_in_operation_counts_until_it_is_repaired(
    lifeboat, disk_file, later, damaged
):
    told = [(b"found", b"", b"flash"), *later, (b"found", b"", b"sata1"), (b"lost", b"", b"sata1")]
    events = [
        entry(number, 1, *what, 7, 1, NOON, 5400000, 1) for number, what in enumerate(told, 2)
    ]
    pages, _ = handmade.ring([[boot(1, 1)], events])
    path = disk_file(pages)
    code, out, _ = lifeboat("log", "--json", path)
    (found,) = json.loads(out)["sets"]
    assert (code, found["blocks_damaged"]) == (3 if damaged else 0, damaged)
    _, out, _ = lifeboat("log", path)
    last = out.splitlines()[-2]
    assert ("intact" in last) == (not damaged) and ("block 7" in last) == bool(damaged)
    assert "sata1: block 7 of its backup copy lost" in out


def test_log_for_programs(lifeboat, disk_file):
    paths = machine(disk_file, b"RUN_DEGRADED")
    code, out, _ = lifeboat("log", "--json", *paths)
    result = json.loads(out)
    assert (code, result["problems"], result["picture"]) == (3, [], None)
    (found,) = result["sets"]
    assert found["set_id"] == handmade.SET_ID.hex()
    assert [(m["disk"], m["member_index"]) for m in found["members"]] == [
        (str(paths[0]), 0),
        (str(paths[1]), 1),
    ]
    assert [s["session"] for s in found["sessions"]] == [1, 2, 3, 4]
    assert found["sessions"][2]["power_cycles_since"] == [9, 9]
    assert found["repairs"] == {"7": [2, 3]}
    assert (found["last_good"], found["last_verdict"], found["blocks_lost"]) == (
        3,
        "RUN_DEGRADED",
        False,
    )
    event = found["sessions"][3]["events"][1]
    assert (event["event"], event["code"], event["where"]) == ("reason", "disk-timeout", "sata1")
    assert event["advice"] == reasons.ADVICE["disk-timeout"]
    assert event["disks"] == [str(path) for path in paths]


def test_log_of_an_empty_journal_is_good_news(lifeboat, disk_file):
    code, out, _ = lifeboat("log", disk_file([bytes(4096)] * 32))
    assert code == 0
    assert "no power-on has had anything to tell" in out


def test_log_of_a_disk_without_a_journal_says_what_to_do(lifeboat, disk_file):
    code, _, err = lifeboat("log", disk_file([], journal=(0, 0)))
    assert code == 1
    assert "no journal" in err and "next: " in err
    code, out, _ = lifeboat("log", "--json", disk_file([b"\xa5" * 4096] * 2))
    assert code == 1
    assert json.loads(out)["error"]["code"] == "journal-none"


def test_log_goes_on_with_the_members_that_can_be_read(lifeboat, disk_file, tmp_path):
    (tmp_path / "blank.img").write_bytes(bytes(1 << 20))
    paths = [*machine(disk_file), tmp_path / "blank.img", disk_file([], "old", journal=(0, 0))]
    code, out, _ = lifeboat("log", *paths)
    assert code == 0
    assert "session 4" in out and "region-none" in out and "journal-none" in out
    result = json.loads(lifeboat("log", "--json", *paths)[1])
    assert [p["code"] for p in result["problems"]] == ["region-none", "journal-none"]


def test_log_names_torn_pages(lifeboat, disk_file):
    pages, _ = handmade.ring([[boot(1, 1)], [damage(2, 1, 7)]])
    pages[1] = pages[1][:512] + bytes(3584)
    code, out, _ = lifeboat("log", disk_file(pages))
    assert code == 0
    assert "page 1: journal-crc" in out


@pytest.mark.parametrize("arguments", [["--picture", "x.png", "disk"], ["--lba", "x", "disk"]])
def test_log_refuses_wrong_usage(lifeboat, arguments):
    assert lifeboat("log", *arguments)[0] == 2


def test_log_has_help_with_examples(lifeboat):
    code, out, _ = lifeboat("log", "--help")
    assert code == 0
    assert "lifeboat log --port" in out and "exit codes" in out


def test_log_finds_a_region_at_an_lba(lifeboat, disk_file):
    path = machine(disk_file)[0]
    path.write_bytes(path.read_bytes() + bytes(1 << 20))
    assert lifeboat("log", path)[0] == 1
    assert lifeboat("log", "--lba", "8", path)[0] == 0


def test_log_reads_the_disks_of_a_connected_board(lifeboat, disk_file, monkeypatch):
    paths = machine(disk_file)
    asked = []

    @contextmanager
    def open_disks(port, names, write=False):
        asked.append((port, list(names), write))
        with Disk(paths[0]) as one, Disk(paths[1]) as two:
            one.path, two.path = Path("sata0"), Path("sata1")
            yield [one, two]

    module = types.ModuleType("lifeboat_host.board.board_disk")
    module.open_disks = open_disks
    monkeypatch.setitem(sys.modules, "lifeboat_host.board.board_disk", module)
    monkeypatch.setattr("lifeboat_host.board.board_disk", module, raising=False)
    code, out, _ = lifeboat("log", "--port", "/dev/ttyX")
    assert (code, asked) == (0, [("/dev/ttyX", [], False)])
    assert "sata1: member 1 of 2" in out
    lifeboat("log", "--port", "/dev/ttyX", "sata0")
    assert asked[1] == ("/dev/ttyX", ["sata0"], False)
    monkeypatch.setattr("lifeboat_host.qemu.background.default_port", lambda: "/dev/pts/9")
    assert lifeboat("log")[0] == 0
    assert asked[2] == ("/dev/pts/9", [], False)


def test_log_without_a_board_says_what_to_name(lifeboat, tmp_path, monkeypatch):
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path))
    code, _, err = lifeboat("log")
    assert code == 1 and "no board is named" in err and "--port" in err


def test_log_stops_when_the_board_is_gone(lifeboat, disk_file, monkeypatch):
    asked = []

    class Gone(Disk):
        def read(self, offset, size):
            asked.append(self.path)
            raise LifeboatError("link-timeout", "no answer from the board", "check the cable")

    monkeypatch.setattr("lifeboat_host.commands.log.Disk", Gone)
    code, _, err = lifeboat("log", *machine(disk_file))
    assert (code, len(asked)) == (1, 1)
    assert "no answer" in err and "check the cable" in err


@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_log_draws_a_picture(lifeboat, disk_file, tmp_path, suffix):
    target = tmp_path / f"log.{suffix}"
    code, out, _ = lifeboat("log", *machine(disk_file), "--picture", target)
    assert code == 0
    assert "disk-timeout" in target.read_text()
    assert str(target) in out
    code, _, err = lifeboat("log", *machine(disk_file), "--picture", tmp_path / "no" / target.name)
    assert code == 1 and "next: " in err


def test_a_picture_shows_one_set(lifeboat, disk_file, tmp_path):
    one = machine(disk_file)[0]
    data = handmade.journal_disk([bytes(4096)] * 2, region_id=OTHER_ID)
    headers = handmade.region(
        region_id=OTHER_ID,
        journal=(handmade.AFTER_SLOTS, 2),
        patch=[(16, OTHER_ID)],
    )
    two = tmp_path / "two.img"
    two.write_bytes(data[:4096] + headers + data[8192:-8192] + headers * 2)
    assert lifeboat("log", one, two)[0] == 0
    code, _, err = lifeboat("log", one, two, "--picture", tmp_path / "x.svg")
    assert code == 1 and "2 sets" in err
    assert not (tmp_path / "x.svg").exists()


# --- what the firmware writes


def test_the_firmwares_journal_is_read(lifeboat, tmp_path, capsys):
    board = sim.SimBoard(bytearray(sim.image(seed=1, version="2.0")), journal=4)
    firmware.power_on(board)
    board.nor.data[2 * sim.ERASE] ^= 1
    firmware.power_on(board)
    board.drives, away = board.drives[:1], board.drives[1]
    for _ in range(70):
        board.nor.data[2 * sim.ERASE] ^= 1
        firmware.power_on(board)
    paths = []
    for disk in (board.drives[0], away):
        paths.append(tmp_path / disk.name)
        paths[-1].write_bytes(sim.get(disk, 0, disk.count * disk.size))
    capsys.readouterr()  # the reports
    code, out, _ = lifeboat("log", "--json", *paths)
    assert code == 0
    (found,) = json.loads(out)["sets"]
    assert all(member["damaged"] == [] for member in found["members"])
    numbers = [session["session"] for session in found["sessions"]]
    assert numbers[-1] == 72 and numbers[:2] == [1, 2]  # the disk that was away kept these
    assert numbers[2:] == list(range(numbers[2], 73))
    told = [(e["event"], e["where"], e["first"]) for e in found["sessions"][1]["events"]]
    assert told == [("power-on", "2.0", 0), ("found", "flash", 2), ("repaired", "disk0", 2)]
    assert found["repeated"] == [2]


# --- anything may stand on a disk


def random_entry(rng, number):
    def text(size):
        usual = rng.choice((b"power-on", b"found", b"repaired", b"lost", b"mended", b"changed"))
        return rng.choice((usual[:size], rng.randbytes(size), b"flash", b"sata0", b"<&\"'>", b""))

    numbers = [rng.choice((0, 1, rng.randrange(1 << 32), 0xFFFFFFFF)) for _ in range(5)]
    session, time, up, first, count = numbers
    texts = text(11), text(16), text(12)
    return entry(number, session, *texts, first, count, time, up, rng.randrange(256))


def test_garbage_gives_a_result_or_a_code_and_nothing_else(lifeboat, tmp_path):
    rng = random.Random(5)
    for turn in range(60):
        pages = []
        for _ in range(4):
            numbers = [rng.choice((n, 1, 0xFFFFFFFF)) for n in range(rng.randrange(1, 63))]
            good = handmade.page(rng.randrange(1 << 32), [random_entry(rng, n) for n in numbers])
            torn = good[: rng.randrange(4096)].ljust(4096, b"\xff")
            pages.append(rng.choice((good, good, torn, rng.randbytes(4096), bytes(4096))))
        path = tmp_path / "disk.img"
        path.write_bytes(handmade.journal_disk(pages))
        picture = tmp_path / ("log.svg" if turn % 2 else "log.html")
        code, out, err = lifeboat("log", path, "--picture", picture)
        assert code in (0, 1, 3)
        assert "Traceback" not in err
        assert "\x1b" not in out
