"""The controller's memory (format.md section 6): reading, writing, healing, power cuts."""

from errno import EIO, ETIMEDOUT
from struct import unpack_from

import pytest

from fakes import memory as by_hand
from fakes.memory import build, closing, counter, failed, header, member, mirror, record, rejected
from fakes.rng import Rng
from lifeboat import memory as memory_module
from lifeboat.blockdev import Window
from lifeboat.errors import LifeboatError
from sim.power import Power, PowerCut

SET, OTHER = b"S" * 16, b"T" * 16
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
ERASE = 4096
M = 16384
EMPTY = None, (), (), (), {}, 0

# page, erase size, program unit with error correction (0: none)
CHIPS = [(256, 4096, 0), (256, 65536, 0), (256, 4096, 32), (512, 4096, 512), (4096, 65536, 4096)]
chips = pytest.mark.parametrize("page, erase, unit", CHIPS)


class Memory(memory_module.Memory):
    """With what writes the records that only updates will write."""

    def reject(self, build):
        if build not in self.rejected:
            self.add([(4, (build,))])

    def raise_counter(self, value):
        if value > self.counter:
            self.add([(6, (value,))])


def chip(first=(), second=(), page=256, erase=ERASE, **more):
    data = mirror(first, page, erase) + mirror(second, page, erase)
    return by_hand.Nor(bytearray(data), erase, **more)


def load(nor, page=256, uid=b""):
    window = Window(nor, 0, len(nor.data) // nor.size)
    window.program_size = nor.program_size
    return Memory(window, page, uid)


def cut(text):
    """A text without the zeros that fill its field."""
    return text.rstrip(b"\0")


def members_of(memory):
    return [(*member[:7], cut(member[7])) for member in memory.members]


def content(memory):
    return (
        memory.set_id,
        tuple(members_of(memory)),
        tuple([(build, counter, cut(version)) for build, counter, version in memory.builds]),
        tuple(memory.rejected),
        memory.failed,
        memory.counter,
    )


def heal(memory):
    memory.heal()


def count_failure(memory, block):
    memory.count_failure(block, memory.failed.get(block, 0) + 1)
    return memory.failed[block]


def verify(memory):
    for _ in memory.verify():
        pass


def members(n=2, base=0, set_id=SET):
    ids = [bytes([base + i + 1]) * 16 for i in range(n)]
    return [(set_id, r, 64 + i, 128, 512, i, n, b"disk%d" % i) for i, r in enumerate(ids)]


def set_of(n=2, first=1, set_id=SET):
    """The records of a set, by hand."""
    records = [
        member(first + i, set_id, bytes([i + 1]) * 16, 64 + i, 128, 512, i, n, b"disk%d" % i)
        for i in range(n)
    ]
    return records + [closing(first + n, set_id, records)]


LOG = [*set_of(2), build(4, A, 7, b"1.0"), rejected(5, B), failed(6, 9, 2), counter(7, 7)]
KNOWN = SET, tuple(members(2)), ((A, 7, b"1.0"),), (B,), {9: 2}, 7


def both(pages, **more):
    return chip([header(), *pages], [header(), *pages], **more)


# Reading


def test_without_a_device_there_is_no_memory():
    memory = Memory(None)
    assert (memory.state, memory.why, memory.writable) == ("none", "memory-none", False)
    assert content(memory) == EMPTY
    with pytest.raises(LifeboatError) as caught:
        memory.remember_set(members())
    assert caught.value.code == "memory-none"


def test_a_device_of_fewer_than_64_pages_is_none():
    memory = load(by_hand.Nor(bytearray(b"\xff" * 24576), ERASE))
    assert (memory.state, memory.why) == ("none", "memory-none")


@pytest.mark.parametrize("mapped", [True, False])
def test_two_blank_mirrors_are_an_empty_memory(mapped):
    memory = load(chip(mapped=mapped))
    assert (memory.state, memory.why, memory.writable) == ("empty", None, True)
    assert not memory.damaged and not memory.lost_records
    assert content(memory) == EMPTY and memory.age(A) == -1 and memory.places == ()


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("at", [0, 5000, M - 1, M, 2 * M - 1])
def test_one_byte_that_is_not_blank_makes_it_lost(mapped, at):
    nor = chip(mapped=mapped)
    nor.data[at] = 0xFE
    memory = load(nor)
    assert (memory.state, memory.why) == ("lost", "memory-lost")


@pytest.mark.parametrize("mapped", [True, False])
def test_what_is_written_is_read(mapped):
    memory = load(both(LOG, mapped=mapped))
    assert (memory.state, memory.why, memory.writable) == ("ok", None, True)
    assert content(memory) == KNOWN
    assert not memory.damaged and not memory.lost_records
    assert memory.places == ((SET, b"\1" * 16, 64, 128), (SET, b"\2" * 16, 65, 128))


@pytest.mark.parametrize("blank", [0, 1])
def test_one_blank_mirror_loses_nothing_and_is_damage(blank):
    pages = [header(), *LOG]
    memory = load(chip(*([(), pages] if not blank else [pages, ()])))
    assert (memory.state, content(memory), memory.damaged) == ("ok", KNOWN, True)
    assert not memory.lost_records


def test_both_headers_torn_is_lost():
    pages = [header()[:128], *LOG]
    memory = load(chip(pages, pages))
    assert (memory.state, memory.why, content(memory)) == ("lost", "memory-lost", EMPTY)


BAD = {
    "page size": header(page=512),
    "mirror size": header(mirror=32768),
    "header size": header(size=512),
    "no epoch": header(epoch=0),
    "an epoch that no chip lives to see": header(epoch=1 << 31),
    "crc": header()[:255] + b"\0",
    "magic": by_hand.sealed(b"LBMEMORX" + header()[8:252]),
    "uid size": by_hand.sealed(header()[:32] + b"\x21" + header()[33:252]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_header_that_breaks_a_rule_does_not_count(name):
    memory = load(chip([BAD[name], *LOG], [BAD[name], *LOG]))
    assert (memory.state, memory.why) == ("lost", "memory-lost")
    memory = load(chip([BAD[name], *LOG], [header(), *LOG]))
    assert (memory.state, content(memory), memory.damaged) == ("ok", KNOWN, True)


@pytest.mark.parametrize(
    "own, told, state",
    [
        (b"me", b"me", "ok"),
        (b"me", b"you", "lost"),
        (b"me", b"", "lost"),
        (b"", b"you", "ok"),
        (b"m" * 40, b"m" * 32, "ok"),
        (b"me", b"me2", "lost"),
    ],
)
def test_the_uid_must_be_the_boards_where_it_has_one(own, told, state):
    pages = [header(uid=told), *LOG]
    memory = load(chip(pages, pages), uid=own)
    assert memory.state == state
    assert memory.why == (None if state == "ok" else "memory-cloned")
    assert content(memory) == (KNOWN if state == "ok" else EMPTY)


@pytest.mark.parametrize("newer", [{"major": 2}, {"incompat": 1}])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_newer_memory_is_neither_used_nor_overwritten(newer, where):
    new, old = [header(**newer), *LOG], [header(), *LOG]
    nor = chip(*[(new, old), (old, new), (new, new)][where])
    memory = load(nor)
    assert (memory.state, memory.why, memory.writable) == ("none", "memory-version", False)
    assert content(memory) == EMPTY
    with pytest.raises(LifeboatError):
        memory.remember_set(members())
    heal(memory)
    assert not nor.erases and not nor.programs


def test_a_damaged_version_number_is_damage():
    bad = header()[:8] + b"\2" + header()[9:]
    assert load(chip([bad, *LOG], [header(), *LOG])).state == "ok"


def test_unknown_bits_of_ro_compat_let_it_be_read_only():
    nor = chip([header(ro_compat=4), *LOG], [header(ro_compat=4), *LOG[:-1]])
    memory = load(nor)
    assert (memory.state, content(memory), memory.writable) == ("ok", KNOWN, False)
    with pytest.raises(LifeboatError) as caught:
        memory.reject(C)
    assert caught.value.code == "memory-failed"
    heal(memory)
    assert not nor.programs and not nor.erases


@pytest.mark.parametrize("where", [0, 1])
def test_a_mirror_that_can_not_be_read_is_damage(where):
    nor = both(LOG)
    nor.unreadable = (where * M + 5,)
    memory = load(nor)
    assert (memory.state, content(memory), memory.damaged) == ("ok", KNOWN, True)


@pytest.mark.parametrize("page", range(1, 8))
def test_an_unreadable_page_of_one_mirror_costs_nothing(page):
    nor = both(LOG)
    nor.unreadable = (page * 256 + 100,)
    memory = load(nor)
    assert (content(memory), memory.damaged) == (KNOWN, True)


def test_another_error_of_the_device_makes_it_unusable():
    nor = both(LOG)

    def fail(*_):
        raise OSError(ETIMEDOUT)

    nor.readblocks = fail
    memory = load(nor)
    assert (memory.state, memory.why, memory.writable) == ("none", "memory-failed", False)


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("page", range(7))
def test_rot_in_one_mirror_loses_nothing_and_is_healed(where, page):
    nor = both(LOG)
    nor.data[where * M + page * 256 + 20] ^= 1
    memory = load(nor)
    assert (content(memory), memory.damaged, memory.lost_records) == (KNOWN, True, False)
    heal(memory)
    assert not memory.damaged
    memory = load(nor)
    assert (content(memory), memory.damaged, memory.lost_records) == (KNOWN, False, False)
    if page:  # the record is appended
        assert nor.erases == 0 and nor.programs == 1
        assert nor.data[where * M + 2048 :][:256] == LOG[page - 1]
    else:
        assert nor.data[:M] == nor.data[M:] == mirror([header(2), *LOG])


def test_rot_of_the_newest_record_in_one_mirror_looks_torn_and_is_appended():
    nor = both(LOG)
    nor.data[7 * 256 + 20] ^= 1
    memory = load(nor)
    assert (content(memory), memory.damaged) == (KNOWN, True)
    heal(memory)
    assert (nor.erases, nor.programs) == (0, 1)
    assert nor.data[9 * 256 : 10 * 256] == LOG[6]


def test_rot_in_different_places_of_both_mirrors_loses_nothing():
    nor = both(LOG)
    nor.data[2 * 256 + 20] ^= 1
    nor.data[M + 4 * 256 + 20] ^= 1
    memory = load(nor)
    assert (content(memory), memory.damaged, memory.lost_records) == (KNOWN, True, False)
    heal(memory)
    assert content(load(nor)) == KNOWN and not load(nor).damaged


@pytest.mark.parametrize("epoch", [1, 5])
def test_a_record_that_rotted_in_both_is_told(epoch):
    pages = [header(epoch), *LOG]
    nor = chip(pages, pages)
    for at in (4 * 256, M + 4 * 256):
        nor.data[at + 20] ^= 1
    memory = load(nor)
    assert memory.lost_records
    assert content(memory) == (SET, tuple(members(2)), (), (B,), {9: 2}, 7)


def test_a_gap_in_the_numbers_is_a_lost_record():
    assert load(both([*LOG, rejected(9, C)])).lost_records
    assert not load(both([*LOG, rejected(8, C)])).lost_records


def test_a_gap_is_none_when_the_other_mirror_has_the_record():
    more = rejected(8, C), build(9, C)
    memory = load(chip([header(), *LOG, more[0], more[1]], [header(), *LOG, more[1]]))
    assert memory.damaged and not memory.lost_records
    assert memory.rejected == [B, C]


def test_a_log_that_was_written_anew_has_no_gaps_either():
    pages = [header(3), *set_of(2), build(4, A)]
    memory = load(chip(pages, pages))
    assert not memory.lost_records and not memory.damaged
    pages = [header(3), *set_of(2), build(5, A)]
    assert load(chip(pages, pages)).lost_records


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_torn_record_is_skipped(where):
    torn = rejected(8, C)[:128]
    pages = [header(), *LOG, torn, rejected(8, A)], [header(), *LOG, rejected(8, A)]
    first, second = [pages, pages[::-1], (pages[0], pages[0])][where]
    memory = load(chip(first, second))
    assert memory.rejected == [B, A]
    assert not memory.damaged and not memory.lost_records


def test_a_torn_record_that_became_readable_does_not_count_before_a_later_one():
    pages = [header(), *LOG, rejected(8, C), rejected(8, A)], [header(), *LOG, rejected(8, A)]
    for first, second in (pages, pages[::-1]):
        assert load(chip(first, second)).rejected == [B, A]


@pytest.mark.parametrize("where", [0, 1])
def test_a_record_missing_at_an_end_counts_and_is_appended(where):
    pages = [header(), *LOG], [header(), *LOG[:-1]]
    nor = chip(*(pages if where else pages[::-1]))
    memory = load(nor)
    assert (content(memory), memory.damaged) == (KNOWN, True)
    heal(memory)
    assert nor.erases == 0 and nor.programs == 1
    assert nor.data[:M] == nor.data[M:] == mirror(pages[0])


def test_a_record_missing_at_an_end_is_appended_before_the_next_one():
    nor = chip([header(), *LOG], [header(), *LOG[:-1]])
    load(nor).reject(C)
    assert nor.data[:M] == nor.data[M:] == mirror([header(), *LOG, rejected(8, C)])


def test_records_out_of_order_count_by_their_numbers():
    pages = [header(), LOG[5], LOG[3], *LOG[:3], LOG[6], LOG[4]]
    memory = load(chip(pages, pages))
    assert (content(memory), memory.damaged, memory.lost_records) == (KNOWN, False, False)


@pytest.mark.parametrize("higher", [0, 1])
def test_of_different_epochs_the_higher_counts_alone(higher):
    old, new = [header(1), *LOG, rejected(8, C)], [header(2), *LOG]
    nor = chip(*([old, new] if higher else [new, old]))
    memory = load(nor)
    assert (content(memory), memory.damaged) == (KNOWN, True)
    heal(memory)
    assert content(load(nor)) == KNOWN and not load(nor).damaged


def test_reading_stops_at_two_blank_pages_and_not_at_one():
    pages = [header(), *LOG, None, rejected(8, C), None, None, rejected(9, A)]
    assert load(chip(pages, pages)).rejected == [B, C]


# What records mean


def test_sixteen_members_are_a_set_and_seventeen_none():
    memory = load(both(set_of(16)))
    assert (memory.set_id, members_of(memory)) == (SET, members(16))
    memory = load(both(set_of(17)))
    assert (memory.set_id, members_of(memory)) == (None, [])


SPOILT = {
    "not closed": set_of(3, 4, OTHER)[:-1],
    "a member less": [
        *set_of(2, 4, OTHER)[:1],
        closing(5, OTHER, set_of(2, 4, OTHER)[:2]),
    ],
    "another set's member": [
        *set_of(2, 4, SET)[:2],
        closing(6, OTHER, set_of(2, 4, SET)[:2]),
    ],
    "not the sum": [*set_of(2, 4, OTHER)[:2], closing(6, OTHER, set_of(2, 1, SET)[:2])],
    "a build between": [
        set_of(2, 4, OTHER)[0],
        build(5, A),
        set_of(2, 5, OTHER)[1],
        closing(7, OTHER, set_of(2, 4, OTHER)[:2]),
    ],
}


@pytest.mark.parametrize("name", SPOILT)
def test_an_incomplete_set_is_as_if_never_written(name):
    memory = load(both([*set_of(2), *SPOILT[name]]))
    assert (memory.set_id, members_of(memory)) == (SET, members(2))
    memory.reject(C)
    assert memory.rejected == [C] and memory.set_id == SET


def test_the_newest_complete_set_counts():
    memory = load(both([*set_of(2), *set_of(1, 4, OTHER)]))
    assert (memory.set_id, len(members_of(memory))) == (OTHER, 1)


def test_no_set_is_a_set_without_members():
    memory = load(both([*set_of(2), closing(4, bytes(16), [])]))
    assert (memory.set_id, members_of(memory), memory.state) == (None, [], "ok")


def test_the_last_eight_different_builds_count_and_a_newer_record_makes_newer():
    names = [bytes([i]) * 32 for i in range(1, 11)]
    log = [build(i + 1, n, i) for i, n in enumerate(names)] + [build(11, names[3], 77, b"2")]
    memory = load(both(log))
    order = [names[2], *names[4:], names[3]]
    assert [b[0] for b in memory.builds] == order
    assert memory.builds[-1] == (names[3], 77, b"2".ljust(24, b"\0"))
    assert [memory.age(n) for n in order] == list(range(8))
    assert memory.age(names[0]) == memory.age(names[1]) == -1


def test_the_last_eight_rejected_ids_count():
    names = [bytes([i]) * 32 for i in range(1, 11)]
    assert load(both([rejected(i + 1, n) for i, n in enumerate(names)])).rejected == names[2:]


def test_the_newest_count_of_a_block_counts_until_all_are_forgotten():
    log = [failed(1, 3, 1), failed(2, 4, 1), failed(3, 3, 2)]
    assert load(both(log)).failed == {3: 2, 4: 1}
    log += [failed(4, 0xFFFFFFFF, 0), failed(5, 4, 1)]
    assert load(both(log)).failed == {4: 1}


def test_the_newest_counter_counts():
    assert load(both([counter(1, 5), counter(2, 9), counter(3, 12)])).counter == 12


def test_a_text_is_given_as_its_bytes():
    log = [build(1, A, 0, b"1\xff\x07\0zz"), build(2, B, 0, "1.0-\u03b2".encode())]
    memory = load(both(log))
    assert [b[2] for b in memory.builds] == [
        b"1\xff\x07\0zz".ljust(24, b"\0"), "1.0-\u03b2".encode().ljust(24, b"\0")
    ]  # fmt: skip


def test_records_of_unknown_kinds_are_kept_when_mirrors_are_written_anew():
    strange = [record(8, 8, b"x" * 240), record(200, 9, b"\0" * 239 + b"y"), record(9, 10, b"")]
    nor = both([*LOG, *strange])
    nor.data[20] ^= 1
    heal(load(nor))
    pages = {bytes(nor.data[at : at + 256]) for at in range(0, M, 256)}
    assert pages >= set(strange) and nor.data[:M] == nor.data[M:]


def test_pages_behind_the_64th_are_not_read():
    pages = [header(mirror=65536)] + [record(99, i, b"x") for i in range(1, 63)]
    pages += [rejected(63, A), rejected(64, B)]
    memory = load(chip(pages, pages, erase=65536))
    assert (memory.state, memory.rejected) == ("ok", [A])
    assert not memory.lost_records and not memory.damaged


# Writing


@pytest.mark.parametrize("old", ["empty", "lost", "cloned", "page size"])
def test_a_set_begins_the_memory(old):
    pages = {
        "empty": [],
        "lost": [b"\0" * 256] * 64,
        "cloned": [header(uid=b"you"), *LOG],
        "page size": [header(page=512), *LOG],
    }[old]
    nor = chip(pages, pages)
    memory = load(nor, uid=b"me")
    memory.remember_set(members(2))
    assert (memory.state, memory.why, memory.damaged) == ("ok", None, False)
    assert nor.data[:M] == nor.data[M:] == mirror([header(uid=b"me"), *set_of(2)])
    assert content(memory) == content(load(nor, uid=b"me"))
    assert (memory.set_id, members_of(memory)) == (SET, members(2))


def test_nothing_else_begins_it():
    nor = chip()
    memory = load(nor)
    calls = [
        lambda: memory.remember_build(A, 1, b"1"),
        lambda: memory.reject(A),
        lambda: count_failure(memory, 1),
        lambda: memory.raise_counter(1),
    ]
    for call in calls:
        with pytest.raises(LifeboatError) as caught:
            call()
        assert caught.value.code == "memory-none"
    assert not nor.programs and not nor.erases and memory.writable


def test_each_record_is_appended_to_both_mirrors():
    nor = both(set_of(2))
    memory = load(nor)
    memory.remember_build(A, 7, b"1.0")
    memory.reject(B)
    assert count_failure(memory, 9) == 1
    assert count_failure(memory, 9) == 2
    memory.raise_counter(7)
    memory.forget_failures()
    log = [build(4, A, 7), rejected(5, B), failed(6, 9, 1), failed(7, 9, 2), counter(8, 7)]
    pages = [header(), *set_of(2), *log, record(5, 9, b"\xff" * 4)]
    assert nor.data[:M] == nor.data[M:] == mirror(pages)
    assert nor.erases == 0
    assert content(memory) == content(load(nor)) == (*KNOWN[:4], {}, 7)


def test_what_would_change_nothing_is_not_written():
    nor = both([*set_of(2), build(4, A, 7, b"1.0"), rejected(5, B), counter(6, 7)])
    memory = load(nor)
    memory.reject(B)
    memory.raise_counter(7)
    memory.raise_counter(3)
    memory.forget_failures()
    heal(memory)
    assert not nor.programs and not nor.erases
    memory.remember_build(A, 7, b"1.0a")
    assert nor.programs == 2


def test_a_set_is_replaced_by_its_members_then_the_record_that_closes_it():
    nor = both(set_of(2))
    memory = load(nor)
    memory.remember_set(members(1, set_id=OTHER))
    pages = [header(), *set_of(2), *set_of(1, 4, OTHER)]
    assert nor.data[:M] == mirror(pages)
    memory.remember_set([])
    assert nor.data[M:] == mirror([*pages, closing(6, bytes(16), [])])
    assert (memory.set_id, members_of(memory), memory.places) == (None, [], ())


def test_a_set_has_at_most_sixteen_members():
    memory = load(chip())
    with pytest.raises(LifeboatError) as caught:
        memory.remember_set(members(17))
    assert caught.value.code == "memory-full" and memory.state == "empty"
    memory.remember_set(members(16))
    assert members_of(memory) == members(16)


def test_names_are_cut_to_24_bytes():
    nor = chip()
    load(nor).remember_set([(SET, b"r" * 16, 1, 2, 512, 0, 1, b"n" * 30)])
    assert load(nor).members[0][7] == b"n" * 24


def test_a_memory_that_must_not_be_written_is_not():
    nor = chip([header(), *LOG], [header(), *LOG[:2]])
    memory = load(nor)
    memory.writable = False
    heal(memory)
    with pytest.raises(LifeboatError):
        memory.reject(C)
    assert not nor.programs and not nor.erases and memory.rejected == [B]


def test_a_full_log_is_written_anew_with_what_lives():
    log = [*LOG] + [failed(8 + i, 9, 3 + i) for i in range(56)]
    nor = both(log)
    memory = load(nor)
    memory.reject(C)
    alive = [*LOG[:5], counter(6, 7), failed(7, 9, 58), rejected(8, C)]
    assert nor.data[:M] == nor.data[M:] == mirror([header(2), *alive])
    erases = [where for _, name, where in nor.power.log if name == "erase"]
    assert erases == list(range(0, 2 * M, ERASE))
    assert content(memory) == content(load(nor)) == (*KNOWN[:3], (B, C), {9: 58}, 7)


def test_a_large_log_is_written_anew_after_64_pages():
    nor = both(LOG, erase=65536)
    nor = chip([header(mirror=65536), *LOG], [header(mirror=65536), *LOG], erase=65536)
    memory = load(nor)
    for i in range(300):
        count_failure(memory, i % 3)
        assert not memory.damaged
    blank = nor.data.find(b"\xff" * 512)
    assert blank <= 64 * 256 and nor.erases in (10, 12)
    assert load(nor).failed == {0: 100, 1: 100, 2: 100, 9: 2}


def test_what_fits_no_more_is_refused_and_changes_nothing():
    memory = load(nor := both(set_of(16)))
    for i in range(39):
        count_failure(memory, i)
    before = bytes(nor.data)
    with pytest.raises(LifeboatError) as caught:
        count_failure(memory, 99)
    assert caught.value.code == "memory-full"
    assert nor.data == before and 99 not in memory.failed
    memory.forget_failures()
    assert memory.failed == {} and count_failure(memory, 99) == 1


@pytest.mark.parametrize("number, age", [(0, -1), (65535, 0), (65536, -1), (0xFFFFFFFF, -1)])
def test_a_record_with_a_number_that_is_not_allowed_is_none(number, age):
    nor = both([*set_of(2), build(number, A)])
    memory = load(nor)
    assert memory.age(A) == age
    memory.reject(B)
    assert memory.rejected == [B]


# Devices that fail


def test_a_page_that_does_not_hold_its_record_is_passed_by():
    nor = both(LOG)
    nor.stuck = (8 * 256 + 17,)
    memory = load(nor)
    memory.reject(C)
    assert memory.writable and not memory.damaged
    assert nor.data[10 * 256 : 11 * 256] == rejected(8, C) == nor.data[M + 2048 : M + 2304]
    nor.stuck = ()
    assert load(nor).rejected == [B, C] and not load(nor).damaged


def test_a_mirror_that_takes_nothing_is_left_alone_and_the_other_goes_on():
    nor = both(LOG)
    nor.lazy = range(0, M, 256)
    memory = load(nor)
    memory.reject(C)
    assert memory.rejected == [B, C] and memory.damaged and memory.writable
    memory.reject(A)
    heal(memory)
    assert nor.erases == 0
    nor.lazy = ()
    memory = load(nor)
    assert memory.rejected == [B, C, A] and memory.damaged
    heal(memory)
    assert not memory.damaged and nor.data[:M] == nor.data[M:]


def test_a_flash_that_takes_nothing_changes_nothing_and_is_not_tried_again():
    nor = both(LOG)
    nor.lazy = range(0, 2 * M, 256)
    memory = load(nor)
    with pytest.raises(LifeboatError) as caught:
        memory.reject(C)
    assert (caught.value.code, memory.writable) == ("memory-failed", False)
    assert content(memory) == KNOWN
    count = len(nor.power.log)
    with pytest.raises(LifeboatError):
        count_failure(memory, 1)
    heal(memory)
    assert len(nor.power.log) == count and nor.erases == 0


def test_a_mirror_that_is_not_erased_by_an_erase_is_not_used():
    nor = both(LOG)
    nor.data[0] = nor.data[40 * 256] = 0
    nor.stuck = (40 * 256,)
    memory = load(nor)
    heal(memory)
    assert memory.damaged and nor.data[:256] != header(2)
    memory.reject(C)
    assert load(nor).rejected == [B, C]


def test_a_mirror_that_can_not_be_erased_stays_damaged_and_the_other_goes_on():
    for bad in (0, 1):
        nor = both(LOG)
        nor.data[bad * M] = 0
        nor.fail_erase = (bad * 4,)
        memory = load(nor)
        heal(memory)
        assert memory.damaged and memory.writable
        memory.reject(C)
        assert load(nor).rejected == [B, C]
        heal(memory)
        assert nor.erases == 0


@pytest.mark.parametrize("when", range(36))
def test_after_an_error_of_any_read_while_healing_nothing_more_is_written(when):
    nor = both(LOG)
    nor.data[20] ^= 1
    memory = load(nor)
    read, left = nor.readblocks, [when]

    def fail(*args):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(ETIMEDOUT)
        read(*args)

    nor.readblocks = fail
    try:
        heal(memory)
    except LifeboatError as error:
        assert error.code == "memory-failed" and not memory.writable
    nor.readblocks = read
    assert memory.damaged == (left[0] < 0)
    assert when > 30 or left[0] < 0, "this one is never reached"
    assert content(memory) == content(load(nor)) == KNOWN


def test_beginning_where_nothing_can_be_erased_fails_and_stays_empty():
    nor = chip()
    nor.fail_erase = range(8)
    memory = load(nor)
    with pytest.raises(LifeboatError) as caught:
        memory.remember_set(members())
    assert (caught.value.code, memory.state, memory.writable) == ("memory-failed", "empty", False)


def test_a_full_log_is_kept_when_it_can_not_be_erased():
    log = [*LOG] + [failed(8 + i, 9, 3 + i) for i in range(56)]
    nor = both(log)
    nor.fail_erase = (0,)
    memory = load(nor)
    with pytest.raises(LifeboatError) as caught:
        memory.reject(C)
    assert caught.value.code == "memory-failed"
    assert content(memory) == content(load(nor)) == (*KNOWN[:4], {9: 58}, 7)


def test_nothing_is_erased_when_neither_mirror_can_hold_what_lives():
    log = [*LOG] + [failed(8 + i, 9, 3 + i) for i in range(56)]
    nor = both(log)
    nor.data[4 * 256 + 20] ^= 1
    nor.data[M + 5 * 256 + 20] ^= 1
    memory = load(nor)
    assert memory.damaged
    heal(memory)
    assert memory.damaged
    with pytest.raises(LifeboatError) as caught:
        memory.reject(C)
    assert caught.value.code == "memory-failed"
    assert nor.erases == 0 and content(load(nor)) == (*KNOWN[:4], {9: 58}, 7)


def test_what_rots_while_the_board_runs_comes_back_from_ram():
    nor = both(LOG)
    memory = load(nor)
    for at in (3 * 256, M + 3 * 256):
        nor.data[at + 20] ^= 1
    verify(memory)
    assert memory.damaged and memory.lost_records
    heal(memory)
    assert content(memory) == content(load(nor)) == KNOWN and not load(nor).damaged


def test_neither_is_erased_when_both_headers_rotted_meanwhile():
    nor = both(LOG)
    memory = load(nor)
    nor.data[0] = nor.data[M] = 0
    verify(memory)
    heal(memory)
    assert memory.damaged
    with pytest.raises(LifeboatError):
        memory.reject(C)
    assert nor.erases == 0 and content(memory) == KNOWN


# The scrubber


@pytest.mark.parametrize("page", range(8))
def test_verify_finds_what_rotted_since_the_power_on(page):
    nor = both(LOG)
    memory = load(nor)
    verify(memory)
    assert not memory.damaged
    nor.data[M + page * 256 + 20] ^= 1
    verify(memory)
    assert memory.damaged and not memory.lost_records
    heal(memory)
    assert not memory.damaged and content(memory) == content(load(nor)) == KNOWN


@pytest.mark.parametrize("page", range(8, 14))
def test_rot_of_erased_pages_is_passed_by(page):
    nor = both(LOG)
    memory = load(nor)
    nor.data[M + page * 256 + 20] = 0x7F
    for name in (A, C, b"d" * 32):
        memory.reject(name)
        assert not memory.damaged
        assert content(load(nor)) == content(memory) and not load(nor).damaged


def test_verify_works_in_steps():
    memory = load(both(LOG))
    steps = sum(1 for _ in memory.verify())
    assert steps >= 16


@pytest.mark.parametrize("steps", range(1, 17))
def test_a_change_in_the_middle_of_verifying_is_no_damage(steps):
    nor = both(LOG)
    memory = load(nor)
    work = memory.verify()
    for _ in range(steps):
        next(work)
    memory.reject(C)
    for _ in work:
        pass
    assert not memory.damaged and memory.rejected == [B, C]


def test_reading_at_power_on_is_short():
    nor = chip([header(mirror=65536), *LOG], [header(mirror=65536), *LOG], erase=65536)
    load(nor)
    assert nor.reads <= 2 * (1 + len(LOG) + 2)


# Power cuts

FULL = [*LOG] + [failed(8 + i, 9, 3 + i) for i in range(55)]


def grown(pages, page, erase):
    return [header(page=page, mirror=by_hand.mirror_size(page, erase)), *pages]


def blank_chip(page, erase):
    return (), ()


def log_chip(page, erase):
    return (grown(LOG, page, erase),) * 2


def full_chip(page, erase):
    return (grown(FULL, page, erase),) * 2


def rotten_chip(page, erase):
    first = grown(LOG, page, erase)
    return first, [*first[:3], b"\0" * 256, *first[4:]]


def both_rotten_chip(page, erase):
    first, second = rotten_chip(page, erase)
    return [*first[:5], b"\0" * 256, *first[6:]], second


def one_chip(page, erase):
    return grown(LOG, page, erase), ()


def lost_chip(page, erase):
    return [b"\0" * 256] * 64, [b"\0" * 256] * 64


def behind_chip(page, erase):
    first = grown(LOG, page, erase)
    return first, first[:-2]


def new_set(memory):
    memory.remember_set(members(3, set_id=OTHER))


CUTS = {
    "begin": (blank_chip, lambda m: m.remember_set(members(2))),
    "begin-lost": (lost_chip, lambda m: m.remember_set(members(2))),
    "set": (log_chip, new_set),
    "build": (log_chip, lambda m: m.remember_build(C, 3, b"3")),
    "reject": (log_chip, lambda m: m.reject(C)),
    "failure": (log_chip, lambda m: count_failure(m, 9)),
    "forget": (log_chip, lambda m: m.forget_failures()),
    "counter": (log_chip, lambda m: m.raise_counter(90)),
    "full": (full_chip, lambda m: m.reject(C)),
    "full-set": (full_chip, new_set),
    "full-forget": (full_chip, lambda m: m.forget_failures()),
    "heal": (rotten_chip, heal),
    "heal-both": (both_rotten_chip, heal),
    "heal-one": (one_chip, heal),
    "rotten-forget": (rotten_chip, lambda m: m.forget_failures()),
    "behind": (behind_chip, lambda m: m.reject(C)),
}
TEARS = [(False, "half"), *((True, tears) for tears in ("half", "bits", "begun", "weak"))]


def attempt(nor, page, change):
    """Do a change at a power-on, which heals first; whether power lasted."""
    try:
        memory = load(nor, page)
        heal(memory)
        change(memory)
    except PowerCut:
        return False
    return True


def powered(nor, cut_at=0, torn=False):
    nor.power = Power(cut_at, torn)
    return nor


def check(nor, page, allowed, begun):
    memory = load(nor, page)
    assert content(memory) in allowed
    assert not begun or memory.state == "ok"
    assert not memory.lost_records
    return memory


def start(make, page, erase, unit, tears="half", seed=0):
    first, second = make(page, erase)
    data = bytearray(mirror(first, page, erase) + mirror(second, page, erase))
    return by_hand.Nor(data, erase, tears=tears, unit=unit, seed=seed)


def cut_all(sweep, name, page, erase, unit, second):
    """Cut at each operation; second: how many other cuts to try in what follows each."""
    make, change = CUTS[name]
    begun = not name.startswith("begin")
    nor = start(make, page, erase, unit)
    before = content(load(nor, page))
    assert attempt(nor, page, change)
    operations = len(nor.power.log)
    after = content(check(nor, page, [content(load(nor, page))], True))
    rng = Rng("cuts/%s/%d" % (name, page))
    for torn, tears in TEARS:
        for cut in sweep.cuts(range(1, operations + 1)):
            nor = powered(start(make, page, erase, unit, tears, cut), cut, torn)
            sweep.shows(flash=nor)
            attempt(nor, page, change)
            data, done = bytes(nor.data), set(nor.done)
            held = content(check(powered(nor), page, (before, after), begun))
            # The next power-on heals, and nothing changes by that.
            memory = load(nor, page)
            heal(memory)
            assert not memory.damaged
            memory = check(nor, page, [held], begun)
            assert not memory.damaged
            more = len(nor.power.log)
            cuts = range(1, more + 1)
            if more > second:
                cuts = {rng.below(more) + 1 for _ in range(second)}
            for again in cuts:
                nor = by_hand.Nor(bytearray(data), erase, tears=tears, unit=unit, seed=again)
                nor.done = set(done)
                powered(nor, again, torn)
                attempt(nor, page, heal)
                check(powered(nor), page, [held], begun)
                assert attempt(nor, page, heal)
                assert not check(nor, page, [held], begun).damaged
                assert attempt(nor, page, change) or held == after
            assert attempt(powered(nor), page, change)
            final = check(nor, page, [content(load(nor, page))], True)
            assert not final.damaged
            if name not in ("failure",):
                assert content(final) == after


@pytest.mark.parametrize("name", CUTS)
def test_every_power_cut_leaves_the_state_before_or_after(sweep, name):
    cut_all(sweep, name, 256, 4096, 0, second=2)


@pytest.mark.parametrize("name", ["begin", "set", "full-set", "heal-both"])
@pytest.mark.parametrize("page, erase, unit", CHIPS[1:])
def test_every_power_cut_is_survived_on_other_chips(sweep, name, page, erase, unit):
    cut_all(sweep, name, page, erase, unit, second=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CUTS)
@chips
def test_every_second_power_cut_is_survived(sweep, name, page, erase, unit):
    cut_all(sweep, name, page, erase, unit, second=1000)


@pytest.mark.parametrize("m", [0, 1])
@pytest.mark.parametrize("state", ["empty", "full"])
def test_a_header_that_can_not_be_read_back_is_no_way_to_lose_what_is_added_later(m, state):
    nor = chip() if state == "empty" else chip(*full_chip(256, ERASE))
    memory = load(nor)
    read = nor.readblocks

    def fail(block, buf, offset):
        if nor.programs and (block, offset) == (4 * m, 0):
            raise OSError(EIO)
        read(block, buf, offset)

    nor.readblocks = fail
    changes = [lambda: memory.remember_set(members(3, set_id=OTHER))]
    changes += [lambda: memory.reject(C), lambda: memory.reject(A)]
    for change in changes:
        try:
            change()
        except LifeboatError as error:
            assert error.code == "memory-failed"
    nor.readblocks = read
    found = load(nor)
    if not memory.writable:  # with the first header it may be the state before or after
        assert (m, state) == (1, "full") or m == 0
        assert found.set_id in (SET, OTHER) and memory.set_id == SET
    else:
        assert content(found) == content(memory) and memory.rejected[-2:] == [C, A]


def test_an_old_header_that_becomes_readable_does_not_come_back():
    old = [header(5), *set_of(1, 1, OTHER)]
    cut = 0
    while True:
        cut += 1
        nor = powered(chip([b"\0" * 256] * 64, old), cut)
        nor.unreadable = (M + 5,)
        assert load(nor).state == "lost"
        lasted = attempt(nor, 256, lambda memory: memory.remember_set(members(2)))
        held = load(powered(nor)).set_id
        nor.unreadable = ()
        assert load(nor).set_id in ((SET,) if held else (None, OTHER))
        if lasted:
            break
    assert cut > 10 and held == SET


class Model:
    """What a memory should know, in plain Python."""

    def __init__(self):
        self.set_id, self.members = None, ()
        self.builds, self.rejected, self.failed, self.counter = (), (), {}, 0

    def content(self):
        return self.set_id, self.members, self.builds, self.rejected, self.failed, self.counter

    def remember_set(self, members):
        self.set_id, self.members = members[0][0], tuple(members)

    def remember_build(self, build, counter, version):
        others = tuple(b for b in self.builds if b[0] != build)
        self.builds = (*others, (build, counter, version))[-8:]

    def reject(self, build):
        if build not in self.rejected:
            self.rejected = (*self.rejected, build)[-8:]

    def count_failure(self, block):
        self.failed = {**self.failed, block: self.failed.get(block, 0) + 1}

    def forget_failures(self):
        self.failed = {}

    def raise_counter(self, value):
        self.counter = max(self.counter, value)


def any_change(rng):
    what = rng.below(14)
    if what == 0:
        n = 1 + rng.below(16)
        return "remember_set", members(n, rng.below(100), rng.bytes(16))
    if what < 4:
        return "remember_build", bytes([rng.below(12)]) * 32, rng.below(9), b"v%d" % rng.below(3)
    if what < 6:
        return "reject", bytes([rng.below(12)]) * 32
    if what < 12:
        return "count_failure", rng.below(6)
    if what < 13:
        return ("forget_failures",)
    return "raise_counter", rng.below(50)


@chips
@pytest.mark.parametrize("seed", range(2))
def test_random_changes_with_random_cuts_equal_the_model(page, erase, unit, seed):
    rng = Rng("model/%d/%d/%d/%d" % (page, erase, unit, seed))
    nor = start(blank_chip, page, erase, unit, seed=seed)
    model = Model()
    model.remember_set(members(2))
    load(nor, page).remember_set(members(2))
    for _ in range(250):
        nor.tears = rng.choice(["half", "bits", "begun", "weak"])
        # Most cuts are behind what one change does.
        powered(nor, 1 + rng.below(rng.choice([6, 40, 200])), rng.below(2))
        before = model.content()
        try:
            memory = load(nor, page)
            assert content(memory) == before
            if rng.below(2):
                heal(memory)
            for _ in range(rng.below(4)):
                name, *args = any_change(rng)
                before = model.content()
                getattr(model, name)(*args)
                change = count_failure if name == "count_failure" else getattr(Memory, name)
                change(memory, *args)
                assert content(memory) == model.content()
                before = model.content()
        except PowerCut:
            pass
        held = content(load(powered(nor), page))
        assert held in (before, model.content())
        if held == before:
            (model.set_id, model.members, model.builds, model.rejected, model.failed,
             model.counter) = before  # fmt: skip
        assert not load(nor, page).lost_records


# A page of a device with error correction is programmed once: the fake says when it is not.


@chips
def test_a_page_is_left_out_after_a_torn_one(page, erase, unit):
    torn = rejected(8, C)[:128]
    pages = grown([*LOG, torn], page, erase)
    nor = start(lambda *_: (pages, pages), page, erase, unit)
    load(nor, page).reject(A)
    for at in (0, len(nor.data) // 2):
        assert nor.data[at + 9 * page : at + 10 * page] == b"\xff" * page
        assert nor.data[at + 10 * page :][:256] == rejected(8, A)
    assert load(nor, page).rejected == [B, A]


@chips
def test_a_page_is_left_out_after_one_that_did_not_take_its_record(page, erase, unit):
    nor = start(log_chip, page, erase, unit)
    nor.stuck = (8 * page + 17,)
    load(nor, page).reject(A)
    assert nor.data[9 * page : 10 * page] == b"\xff" * page
    assert nor.data[10 * page :][:256] == rejected(8, A)
    assert load(nor, page).rejected == [B, A]


# Untrusted bytes


@pytest.mark.parametrize("seed", range(40))
def test_no_bytes_whatever_make_it_fail_or_write(seed):
    rng = Rng("memory/%d" % seed)
    data = bytearray(mirror([header(), *LOG]) + mirror([header(), *LOG]))
    kinds = [lambda i: record(rng.below(256), i, rng.bytes(240)), lambda i: rng.bytes(256)]
    kinds += [lambda i: record(rng.below(8), rng.below(99), rng.bytes(rng.below(240)))]
    # Valid records behind two erased pages are the one thing that a power-on does not look at.
    dense = rng.below(2)
    for i in range(rng.below(120)):
        at = 256 * (1 + (i if dense else rng.below(127)))
        if at != M:
            data[at : at + 256] = rng.choice(kinds)(i)
    nor = by_hand.Nor(data, ERASE)
    memory = load(nor)
    content(memory)
    verify(memory)
    assert not nor.programs and not nor.erases
    try:
        heal(memory)
        memory.remember_set(members(2))
        assert not dense or members_of(load(nor)) == members(2)
    except LifeboatError as error:
        assert error.code in ("memory-full", "memory-failed", "memory-none")


def test_the_fields_of_a_header_are_where_the_page_has_them():
    nor = chip()
    load(nor, uid=b"board").remember_set(members(1))
    head = bytes(nor.data[:256])
    assert head[:8] == b"LBMEMORY" and head[8] == 1 and head[32] == 5 and head[33:38] == b"board"
    assert unpack_from("<III", head, 12) == (1, 256, M)
    assert EIO == 5
