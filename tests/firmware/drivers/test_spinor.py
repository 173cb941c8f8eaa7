"""The serial NOR flash driver against a bus-level fake.

Expected values come from JESD216 and the chips' data sheets, worked out by hand, not from the
driver. Where QEMU's m25p80 differs from the data sheets, the fake does as the data sheets say:

    data sheet                                    QEMU 7.2
    erases start at the sector, whatever address  at the given address
    programming wraps inside its page             goes on into the next page
    protected ranges refuse program and erase     program only
    write enable falls after each operation       stays
    busy during operations, commands unheard      never busy
    IS25WP256 has parameters (SFDP)               none

Both accept a driver that does not depend on any of these.
"""

import errno

import pytest
from conformance.flash import flash_checks

from fakes.rng import Rng
from fakes.spinor import Bus, Chip, Select
from lifeboat.drivers import spinor

K = 1024
M = K * K

# Parameters read from chips; published by their users on the linux-mtd mailing list.
IS25WP256 = bytes.fromhex(
    "53464450060101ff00060110300000ff9d05010380000002ffffffffffff"
    "ffffffffffffffffffffffffffffffffffffe520f9ffffffff0f44eb086b"
    "083b80bbfeffffffffff00ffffff44eb0c200f5210d800ff234ac90082d8"
    "11cecccd68467a757a75f7aed55c4a422cfff030faa9ffffffffffffffff"
    "ffffffffffffffff501950169ff9c0648fefffff"
)
MT25QU256 = bytes.fromhex(
    "53464450060101ff00060110300000ff84000102800000ffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffe520fbffffffff0f29eb276b"
    "273b27bbffffffffffff27bbffff29eb0c2010d80f520000244a99008b8e"
    "03d4ac0127387a757a75fbbdd55c4a0f82ff81bd3d36ffffffffffffffff"
    "ffffffffffffffffffe7ffff21dcffff"
)
W25Q64JW = bytes.fromhex(
    "53464450060101ff00060110800000ff84000102d00000ffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffe520f9ffffffff0344eb086b083b42bbfeffffffffff"
    "0000ffff40eb0c200f5210d800003602a60082ea14c4e96376337a757a75"
    "f7bdd55c19f75dffe930f880ffffffffffffffffffffffffffffffff0000"
    "f0ffffffffff"
)

# Outcome registers as the fake wants them: command, program and erase failed, protected, clear.
MICRON = (0x70, 0x10, 0x20, 0x02, 0x50)
ISSI = (0x81, 0x04, 0x08, 0x02, 0x82)
SPANSION = (0x05, 0x40, 0x20, 0x00, 0x30)


def nothing(chip):
    return 0, 0


def device(chip):
    return spinor.SPINOR(Bus(chip), Select(chip))


def unknown_with(sfdp, size=M, **more):
    return Chip(size, b"\x55\x66\x77", sfdp=sfdp, outcome=None, bp=nothing, **more)


# A parameter space as JESD216 describes it: (id, major revision, dwords) for each table.
def sfdp(*tables, headers=None):
    at = 8 + 8 * len(tables)
    head = b"SFDP" + bytes((0, 1, (len(tables) if headers is None else headers) - 1, 0xFF))
    body = b""
    for ident, major, words in tables:
        head += bytes((ident & 0xFF, 0, major, len(words))) + at.to_bytes(3, "little")
        head += bytes((ident >> 8,))
        table = b"".join(w.to_bytes(4, "little") for w in words)
        body += table
        at += len(table)
    return head + body


# Basic table: dwords 1 (address bytes), 2 (density), 8 and 9 (erase types), 10, 11 and 16.
def basic(density, erases=(0x200C, 0xD810, 0, 0), address=0, times=None, modes=None):
    words = [0xFFF120E5 & ~(3 << 17) | address << 17, density] + [0xFFFFFFFF] * 5
    words += [erases[0] | erases[1] << 16, erases[2] | erases[3] << 16]
    if times or modes is not None:
        words += list(times or (0, 0)) + [0] * 4 + [modes or 0]
    return 0xFF00, 1, words


@pytest.fixture
def clock(monkeypatch):
    """Let a millisecond pass at each look at the clock; return the list that holds the time."""
    now = [0]

    def ticks_ms():
        now[0] += 1
        return now[0]

    monkeypatch.setattr(spinor, "ticks_ms", ticks_ms)
    return now


def raises(code, call, *args):
    with pytest.raises(OSError) as e:
        call(*args)
    assert e.value.args[0] == code, e.value
    return e.value


# What the driver makes of each kind of chip.


@pytest.mark.parametrize(
    "ident, size, blocks",
    [
        (b"\x9d\x60\x19", 32 * M, (4 * K, 32 * K, 64 * K)),
        (b"\x9d\x70\x19", 32 * M, (4 * K, 32 * K, 64 * K)),
        (b"\xef\x40\x18", 16 * M, (4 * K, 32 * K, 64 * K)),
        (b"\xef\x40\x19", 32 * M, (4 * K, 32 * K, 64 * K)),
        (b"\xc2\x20\x19", 32 * M, (4 * K, 32 * K, 64 * K)),
        (b"\x20\xba\x19\x10\x44", 32 * M, (4 * K, 64 * K)),
        (b"\x01\x02\x19\x4d\x00", 32 * M, (256 * K,)),
        (b"\x01\x02\x19\x4d\x01", 32 * M, (64 * K,)),
    ],
    ids=lambda v: v.hex() if isinstance(v, bytes) else "",
)
def test_a_chip_without_parameters_is_known_by_its_id(ident, size, blocks):
    dev = device(Chip(size, ident, outcome=None, bp=nothing))
    assert (dev.size, dev.jedec_id) == (size, ident[:3])
    assert dev.ioctl(5, 0) == blocks[0] and dev.ioctl(4, 0) * blocks[0] == size
    assert tuple(sorted(e[0] for e in dev._erases)) == blocks


def test_a_byte_can_be_programmed_by_itself_and_again():
    flash = device(unknown_with(sfdp(basic(M))))
    assert flash.program_size == 1
    flash.writeblocks(0, b"\xf0", 7)
    flash.writeblocks(0, b"\x30", 7)
    found = bytearray(3)
    flash.readblocks(0, found, 6)
    assert found == b"\xff\x30\xff"


def test_a_s25fl256s_of_another_sector_layout_is_not_guessed_at():
    e = raises(errno.ENODEV, device, Chip(ident=b"\x01\x02\x19\x4d\x02", bp=nothing))
    assert "010219" in str(e)


def test_an_unknown_id_is_told():
    assert "556677" in str(raises(errno.ENODEV, device, unknown_with(None)))


@pytest.mark.parametrize("fault, ident", [("ff", "ffffff"), ("00", "000000")])
def test_an_absent_chip_is_told_at_once(fault, ident, clock):
    chip = Chip()
    chip.fault = fault
    assert ident in str(raises(errno.ENODEV, device, chip))
    assert clock[0] < 10


@pytest.mark.parametrize(
    "chip, size, erases, read",
    [
        # Dword 10 is 0x00c94a23: at most 8 times 3 x 16, 10 x 16, 19 x 16 ms; dword 16 offers
        # 4-byte opcodes.
        (
            Chip(sfdp=IS25WP256),
            32 * M,
            [(64 * K, 0xDC, 2432), (32 * K, 0x5C, 1280), (4 * K, 0x21, 1000)],
            0x0C,
        ),
        # 0x00994a24: at most 10 times 3 x 16, 10 x 16; the 4-byte table has no 32 KB erase.
        (
            Chip(ident=b"\x20\xbb\x19\x10\x44", sfdp=MT25QU256, outcome=MICRON, bp=nothing),
            32 * M,
            [(64 * K, 0xDC, 1600), (4 * K, 0x21, 1000)],
            0x0C,
        ),
        # 0x00a60236: at most 14 times 4 x 16, 1 x 128, 10 x 16 ms; 3-byte addresses.
        (
            Chip(8 * M, b"\xef\x80\x17", sfdp=W25Q64JW, outcome=None, bp=nothing),
            8 * M,
            [(64 * K, 0xD8, 2240), (32 * K, 0x52, 1792), (4 * K, 0x20, 1000)],
            0x0B,
        ),
    ],
    ids=["IS25WP256", "MT25QU256", "W25Q64JW"],
)
def test_parameters_of_real_chips(chip, size, erases, read):
    dev = device(chip)
    assert dev.size == size and dev._erases == erases
    assert dev._page == 256
    dev.readblocks(dev.ioctl(4, 0) - 1, bytearray(4096))
    assert chip.log[-1] == (read, size - 4096)
    # Dword 16, bit 12, of all three: software reset by 66h, 99h.
    assert (0x99, None) in chip.log and not chip.misuse


@pytest.mark.parametrize(
    "density, size",
    [
        (8 * M - 1, M),
        (2**31 - 1, 256 * M),  # the largest of the first form: 2 Gbit
        (0x80000000 | 32, 512 * M),
        (0x80000000 | 33, 1024 * M),
        (0x80000000 | 35, 4096 * M),
    ],
)
def test_both_forms_of_density(density, size):
    dev = device(unknown_with(sfdp(basic(density, modes=1 << 29)), size))
    assert dev.size == size


def test_the_page_size_and_times_of_the_parameters():
    # Dword 10: at most 2 x (1 + 1) times 32 x 1 s and 4 x 128 ms. Dword 11: pages of 2^7 bytes.
    times = (1 | 0x7F << 4 | (3 | 2 << 5) << 11, 7 << 4)
    dev = device(unknown_with(sfdp(basic(8 * M - 1, times=times))))
    assert dev._erases == [(64 * K, 0xD8, 4 * 4 * 128), (4 * K, 0x20, 30000)]
    assert dev._page == 128
    dev = device(unknown_with(sfdp(basic(8 * M - 1, times=(0xFFFFFFFF, 9 << 4)))))
    assert dev._page == 256  # halves of 512 byte pages
    assert dev._erases[-1][2] == 30000


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"SFDQ" + sfdp(basic(8 * M - 1))[4:],
        b"SFDP" + bytes((0, 2)) + sfdp(basic(8 * M - 1))[6:],  # a later format
        b"SFDP\0\1\xff\xff",  # 256 headers, none there
        b"SFDP\0\1\xff\xff" * 300,  # headers that are the header again
        sfdp((0xFF00, 1, basic(8 * M - 1)[2][:8])),  # too short
        sfdp((0xFF00, 2, basic(8 * M - 1)[2])),
        sfdp(basic(8 * M - 1))[:16],  # the table lies behind the end
        sfdp(basic(0)),
        sfdp(basic(0xFFFFFFFF)),
        sfdp(basic(0x80000000)),
        sfdp(basic(0x80000000 | 36)),
        sfdp(basic(0x80000000 | 0x7FFFFFFF)),
        sfdp(basic(8 * M - 1, erases=(0, 0, 0, 0))),
        sfdp(basic(8 * M - 1, erases=(0xFFFF, 0xFF0C, 0xC70C, 0x0100))),  # chip erase for 4 KB
        sfdp(basic(8 * 4096 - 1, erases=(0xD810, 0, 0, 0))),  # a chip smaller than its sectors
        sfdp(basic(8 * M - 1), (0xFF81, 1, [0] * 4)),  # sectors of several sizes
    ],
)
def test_wrong_parameters_are_not_believed(bad):
    raises(errno.ENODEV, device, unknown_with(bad))
    # Where the id is known, they are not needed.
    dev = device(Chip(sfdp=bad))
    assert dev.size == 32 * M and dev._erases[-1][:2] == (4096, 0x21)


def test_parameters_with_more_headers_than_tables():
    dev = device(unknown_with(sfdp(basic(8 * M - 1), headers=256)))
    assert dev.size == M


def test_parameters_that_contradict_the_id_are_not_believed():
    assert device(Chip(sfdp=sfdp(basic(8 * M - 1)))).size == 32 * M


def test_random_parameters_never_give_anything_but_a_driver_or_an_oserror():
    rng = Rng("sfdp")
    for _ in range(300):
        data = bytearray(sfdp(basic(8 * 64 * M - 1, modes=1 << 29), (0xFF84, 1, [0x643, 0xDC21])))
        for _ in range(rng.below(6) + 1):
            data[rng.below(len(data))] = rng.below(256)
        try:
            dev = device(unknown_with(bytes(data), 64 * M))
        except OSError:
            continue
        assert dev.size % dev.ioctl(5, 0) == 0
        assert all(op in (0x20, 0x52, 0xD8, 0x21, 0x5C, 0xDC) for _, op, _ in dev._erases)


# Addresses beyond 16 MB.

MODE4 = {
    "W25Q256 without opcodes": Chip(
        ident=b"\xef\x40\x19", opcodes4=False, mode4=0, outcome=None, bp=nothing
    ),
    "MX25L25635E": Chip(ident=b"\xc2\x20\x19", opcodes4=False, mode4=0, outcome=None, bp=nothing),
    "N25Q256A": Chip(ident=b"\x20\xba\x19", opcodes4=False, mode4=1, outcome=MICRON, bp=nothing),
    "any, by dword 16": unknown_with(
        sfdp(basic(8 * 32 * M - 1, modes=1 << 25)), 32 * M, opcodes4=False, mode4=1
    ),
    "any, by dword 1": unknown_with(
        sfdp(basic(8 * 32 * M - 1, address=1)), 32 * M, opcodes4=False, mode4=1
    ),
}


@pytest.mark.parametrize("name", MODE4)
def test_a_chip_with_a_mode_is_in_it_only_during_calls(name):
    chip = MODE4[name]
    dev = device(chip)
    for at in (0, 16 * M - 4096, 16 * M, 32 * M - 4096):
        n = at // 4096
        data = Rng(name + str(at)).bytes(4096)
        dev.writeblocks(n, data)
        assert chip.peek(at, 4096) == data
        buf = bytearray(4096)
        dev.readblocks(n, buf)
        assert buf == data
        assert not chip.four and not chip.high and not chip.enabled
    raises(errno.EINVAL, dev.readblocks, 32 * M // 4096, bytearray(4096))
    assert (0xB7, None) in chip.log and not chip.misuse


def test_a_chip_left_in_4_byte_mode_is_taken_out_of_it():
    chip = Chip(ident=b"\xc2\x20\x19", opcodes4=False, mode4=0, outcome=None, bp=nothing)
    chip.four = True
    device(chip)
    assert not chip.four


# Chips that take 4-byte addresses for their parameters in 4-byte mode, too: by dword 16 they have
# the mode (bit 24: B7h) and leave it by 66h 99h (bit 12), F0h (bit 11) or E9h only.
@pytest.mark.parametrize("size", [8 * M, 32 * M])
@pytest.mark.parametrize("modes, resets", [(1 << 12, (0x99,)), (1 << 11, (0xF0,)), (0, ())])
@pytest.mark.parametrize("sfdp4", [True, False])
@pytest.mark.parametrize("four", [True, False])
def test_a_chip_is_found_in_either_mode(size, modes, resets, sfdp4, four):
    tables = sfdp(basic(8 * size - 1, address=1, modes=1 << 24 | modes))
    chip = unknown_with(tables, size, opcodes4=False, mode4=0, sfdp4=sfdp4, resets=resets)
    chip.four = four
    dev = device(chip)
    assert dev.size == size and not chip.four
    for at in (4096, size - 4096):
        data = Rng(str(at)).bytes(4096)
        dev.writeblocks(at // 4096, data)
        assert chip.peek(at, 4096) == data
        buf = bytearray(4096)
        dev.readblocks(at // 4096, buf)
        assert buf == data and not chip.four
    assert not chip.misuse


def test_a_chip_that_stays_in_4_byte_mode_is_named():
    chip = unknown_with(
        sfdp(basic(8 * 8 * M - 1, address=1)), 8 * M, mode4=None, sfdp4=True, resets=()
    )
    chip.four = True
    assert "4-byte mode" in raises(errno.EOPNOTSUPP, device, chip).args[1]


def test_a_chip_that_always_wants_4_bytes_may_want_them_for_parameters():
    chip = unknown_with(sfdp(basic(8 * 32 * M - 1, address=2)), 32 * M, sfdp4=True)
    chip.four = True
    dev = device(chip)
    chip.poke(20 * M, b"abc")
    buf = bytearray(3)
    dev.readblocks(0, buf, 20 * M)
    assert buf == b"abc"


def test_a_reset_by_f0_is_sent_only_to_chips_that_say_so():
    chip = unknown_with(sfdp(basic(8 * M - 1, modes=1 << 12 | 1 << 11)), resets=(0x99, 0xF0))
    device(chip)
    assert [op for op, _ in chip.log] == [0x99]


def test_a_chip_with_4_byte_opcodes_never_changes_its_mode():
    chip = Chip()
    dev = device(chip)
    data = Rng("opcodes").bytes(8192)
    dev.writeblocks(32 * M // 4096 - 2, data)
    buf = bytearray(8192)
    dev.readblocks(32 * M // 4096 - 2, buf)
    assert buf == data == chip.peek(32 * M - 8192, 8192)
    assert {op for op, at in chip.log} == {0x99, 0x21, 0x12, 0x0C} and not chip.misuse


def test_a_4_byte_table_with_the_slow_read_only():
    # Read 13h, program 12h, erases of types 1 and 2.
    table = 0xFF84, 1, [0x0641, 0xDC21]
    chip = unknown_with(sfdp(basic(8 * 32 * M - 1, modes=0), table), 32 * M)
    dev = device(chip)
    dev.writeblocks(5000, bytes(4096))
    buf = bytearray(b"\x55" * 4096)
    dev.readblocks(5000, buf)
    assert buf == bytes(4096) and chip.log[-1] == (0x13, 5000 * 4096)


def test_an_incomplete_4_byte_table_is_no_way():
    for word in (0x0640, 0x0603):
        chip = unknown_with(sfdp(basic(8 * 32 * M - 1), (0xFF84, 1, [word, 0xDC21])), 32 * M)
        raises(errno.EOPNOTSUPP, device, chip)


def test_a_chip_that_always_wants_4_bytes():
    chip = unknown_with(sfdp(basic(8 * 32 * M - 1, address=2)), 32 * M)
    chip.four = True
    dev = device(chip)
    chip.poke(20 * M, b"abc")
    buf = bytearray(3)
    dev.readblocks(0, buf, 20 * M)
    assert buf == b"abc" and chip.log == [(0x0B, 20 * M)]


# What the chip may be found in.


def test_a_chip_busy_with_an_erase_is_waited_for_and_not_reset_meanwhile(clock):
    chip = Chip(sfdp=IS25WP256)
    chip.busy = 2000
    assert device(chip).size == 32 * M
    assert not chip.misuse and chip.log == [(0x99, None)]


def test_a_chip_busy_for_ever_is_given_up(clock):
    chip = Chip()
    chip.busy = 1
    chip.fault = "busy"
    raises(errno.ETIMEDOUT, device, chip)
    assert clock[0] < 10000


@pytest.mark.parametrize("state", ["asleep", "continuous", "suspended"])
def test_a_chip_left_in_a_state_is_brought_out_of_it(state):
    chip = Chip()
    setattr(chip, state, True)
    dev = device(chip)
    assert not getattr(chip, state) and dev.size == 32 * M


def test_the_bus_speed_is_set_only_when_asked_for():
    chip = Chip()
    bus = Bus(chip)
    spinor.SPINOR(bus, Select(chip))
    assert bus.inits == []
    spinor.SPINOR(bus, Select(chip), baudrate=20000000)
    assert bus.inits == [{"baudrate": 20000000, "polarity": 0, "phase": 0}]


# Reading, programming, erasing.

CHIPS = {
    "4-byte opcodes": lambda: Chip(),
    "4-byte mode": lambda: Chip(
        ident=b"\x20\xba\x19", opcodes4=False, mode4=1, outcome=MICRON, bp=nothing
    ),
    "parameters": lambda: Chip(8 * M, b"\xef\x80\x17", sfdp=W25Q64JW, outcome=None, bp=nothing),
    "large sectors": lambda: Chip(
        ident=b"\x01\x02\x19\x4d\x01", outcome=SPANSION, bp=nothing, erases={0xD8: 65536}
    ),
}


@pytest.mark.parametrize("kind", CHIPS)
def test_conformance(kind):
    chip = CHIPS[kind]()
    dev = device(chip)
    assert len(list(flash_checks(dev, dev.ioctl(4, 0) - 3, 2))) >= 10
    assert not chip.misuse


def test_one_command_reads_any_length():
    chip = Chip()
    dev = device(chip)
    chip.poke(3 * 4096 - 1, b"0123456789")
    before = dev._spi.transfers
    buf = bytearray(3 * 4096)
    dev.readblocks(2, buf)
    assert chip.peek(2 * 4096, len(buf)) == buf
    assert [e for e in chip.log if e[0] == 0x0C] == [(0x0C, 2 * 4096)]
    assert dev._spi.transfers - before == 4  # status and its answer, command, data


def test_writes_split_at_pages_and_skip_blank_ones():
    chip = Chip()
    dev = device(chip)
    dev.writeblocks(1, bytes(300), 250)
    assert [at for op, at in chip.log if op == 0x12] == [4096 + 250, 4096 + 256, 4096 + 512]
    assert chip.peek(4096 + 249, 302) == b"\xff" + bytes(300) + b"\xff"
    data = b"\xff" * 256 + b"\xff" * 255 + b"x" + b"\xff" * 512 + b"y" + b"\xff" * 3071
    del chip.log[:]
    dev.writeblocks(0, data)
    assert chip.log == [(0x21, 0), (0x12, 256), (0x12, 1024)]
    assert dev.programs == 5 and dev.erases == 1 and not chip.misuse


def test_an_erase_takes_the_largest_commands_that_fit():
    chip = Chip()
    dev = device(chip)
    del chip.log[:]
    dev.erase_blocks(15, 1 + 16 + 8 + 1)
    assert chip.log == [(0x21, 60 * K), (0xDC, 64 * K), (0x5C, 128 * K), (0x21, 160 * K)]
    assert dev.erases == 26 and not chip.misuse
    del chip.log[:]
    dev.erase_blocks(8, 24)
    assert chip.log == [(0x5C, 32 * K), (0xDC, 64 * K)]


def test_a_whole_chip_is_erased_in_its_largest_sectors():
    chip = Chip(8 * M, b"\xef\x80\x17", sfdp=W25Q64JW, outcome=None, bp=nothing)
    dev = device(chip)
    del chip.log[:]
    dev.erase_blocks(0, dev.ioctl(4, 0))
    assert chip.log == [(0xD8, at) for at in range(0, 8 * M, 64 * K)]


@pytest.mark.parametrize("first, count", [(-1, 1), (8191, 2), (8192, 1), (0, 8193), (0, -1)])
def test_an_erase_outside_is_refused(first, count):
    chip = Chip()
    dev = device(chip)
    del chip.log[:]
    raises(errno.EINVAL, dev.erase_blocks, first, count)
    assert chip.log == []


def test_an_empty_erase_does_nothing():
    chip = Chip()
    dev = device(chip)
    del chip.log[:]
    dev.erase_blocks(8192, 0)
    dev.erase_blocks(3, 0)
    assert chip.log == [] and dev.erases == 0


def test_the_write_enable_latch_is_down_after_each_call():
    chip = Chip()
    dev = device(chip)
    for call in (lambda: dev.writeblocks(0, bytes(4096)), lambda: dev.erase_blocks(0, 1)):
        call()
        assert not chip.enabled


# A chip that lies.


def test_a_chip_that_does_not_take_write_enable_is_write_protected():
    chip = Chip()
    dev = device(chip)
    chip.poke(0, b"precious")
    chip.fault = "wren"
    raises(errno.EROFS, dev.ioctl, 6, 0)
    raises(errno.EROFS, dev.writeblocks, 0, bytes(10), 0)
    assert chip.peek(0, 8) == b"precious" and not chip.misuse


def test_an_operation_that_never_ends_has_a_deadline(clock):
    chip = Chip()
    dev = device(chip)
    chip.fault = "busy"
    start = clock[0]
    raises(errno.ETIMEDOUT, dev.writeblocks, 0, bytes(256), 0)
    assert 100 <= clock[0] - start < 200
    # After that each call looks once, so that a dead flash does not hold up a boot.
    start = clock[0]
    for _ in range(10):
        raises(errno.ETIMEDOUT, dev.readblocks, 0, bytearray(4096))
        raises(errno.ETIMEDOUT, dev.ioctl, 6, 0)
    assert clock[0] - start <= 100
    # It comes back by itself when the chip does.
    chip.fault = None
    chip.busy = 1
    raises(errno.ETIMEDOUT, dev.readblocks, 0, bytearray(4096))
    dev.readblocks(0, bytearray(4096))
    start = clock[0]
    chip.fault = "busy"
    raises(errno.ETIMEDOUT, dev.ioctl, 6, 0)
    assert 4000 <= clock[0] - start < 4100


def test_each_erase_has_its_own_deadline(clock):
    for blocks, ms in ((16, 2432), (8, 1280), (1, 1000)):
        chip = Chip(sfdp=IS25WP256)
        dev = device(chip)
        chip.fault = "busy"
        start = clock[0]
        raises(errno.ETIMEDOUT, dev.erase_blocks, 0, blocks)
        assert ms <= clock[0] - start < ms + 50


def test_a_chip_is_not_read_while_it_is_busy():
    chip = Chip()
    dev = device(chip)
    chip.poke(0, b"content")
    chip.busy = 7  # as after an operation that Ctrl-C interrupted
    buf = bytearray(7)
    dev.readblocks(0, buf, 0)
    assert buf == b"content" and not chip.misuse


@pytest.mark.parametrize(
    "ident, outcome, more",
    [
        (b"\x9d\x70\x19", ISSI, {}),
        (b"\x20\xba\x19", MICRON, {"mode4": 1}),
        (b"\x01\x02\x19\x4d\x01", SPANSION, {"erases": {0xD8: 65536}}),
    ],
    ids=["ISSI", "Micron", "Spansion"],
)
def test_what_the_chip_says_of_a_failed_operation_is_an_error(ident, outcome, more):
    chip = Chip(ident=ident, outcome=outcome, bp=nothing, **more)
    dev = device(chip)
    chip.fault = "program-error"
    raises(errno.EIO, dev.writeblocks, 0, bytes(10), 0)
    assert dev.status & outcome[1]
    chip.fault = "erase-error"
    raises(errno.EIO, dev.ioctl, 6, 0)
    assert dev.status & outcome[2]
    # The error is cleared, and so is the latch: the next operation is not blamed for it.
    chip.fault = None
    assert not chip.ended and not chip.enabled
    dev.writeblocks(0, bytes(dev.ioctl(5, 0)))
    assert not chip.misuse


def test_a_refusal_that_only_the_chip_knows_of_is_a_protection():
    # Sector locks beside the status register's bits: IS25WP256 and others have them.
    chip = Chip(bp=lambda chip: (64 * K, 128 * K))
    dev = device(chip)
    assert dev.protected[0] == dev.protected[1]
    raises(errno.EROFS, dev.ioctl, 6, 16)
    raises(errno.EROFS, dev.writeblocks, 16, b"x", 0)
    dev.ioctl(6, 15)
    dev.writeblocks(32, b"x", 0)


def test_later_spansion_chips_are_not_asked_for_bits_they_do_not_have():
    # S25FL256L: bits 5 and 6 of its status register are about protection.
    chip = unknown_with(sfdp(basic(8 * M - 1)))
    chip.ident = b"\x01\x60\x14"
    chip.status = 0x20
    dev = device(chip)
    dev.writeblocks(0, bytes(4096))
    assert chip.peek(0, 4096) == bytes(4096)


@pytest.mark.parametrize("fault", ["program", "erase", "stale"])
def test_silent_failures_are_left_to_who_reads_back(fault):
    # The chip says that all is well; only its content shows that it lies.
    chip = Chip()
    dev = device(chip)
    dev.writeblocks(0, b"\x12" * 4096)
    chip.fault = fault
    dev.writeblocks(0, b"\x34" * 4096)
    buf = bytearray(4096)
    dev.readblocks(0, buf)
    assert buf != b"\x34" * 4096


def test_stuck_bits_are_left_to_who_reads_back():
    chip = Chip()
    chip.stuck_low, chip.stuck_high = {10: 1}, {4000: 0x80}
    dev = device(chip)
    dev.writeblocks(0, b"\x0f" * 4096)
    buf = bytearray(4096)
    dev.readblocks(0, buf)
    assert [i for i in range(4096) if buf[i] != 0x0F] == [10, 4000]


def test_a_chip_pulled_out_is_an_error_soon(clock):
    chip = Chip()
    dev = device(chip)
    chip.fault = "ff"
    start = clock[0]
    for _ in range(20):
        raises(errno.ETIMEDOUT, dev.readblocks, 0, bytearray(4096))
    assert clock[0] - start < 4200
    chip.fault = "00"
    raises(errno.EROFS, dev.ioctl, 6, 0)


def test_an_error_of_the_bus_releases_the_chip():
    chip = Chip()
    dev = device(chip)

    def readinto(buf, write=0):
        raise OSError(errno.ETIMEDOUT)

    good, dev._spi.readinto = dev._spi.readinto, readinto
    raises(errno.ETIMEDOUT, dev.readblocks, 0, bytearray(4096))
    dev._spi.readinto = good
    dev.readblocks(0, bytearray(4096))
    assert not chip.misuse


# Block protection.


@pytest.mark.parametrize(
    "bits, start",
    [
        (0b0000, 32 * M),
        (0b0001, 32 * M - 64 * K),
        (0b0010, 32 * M - 128 * K),
        (0b0111, 28 * M),
        (0b1000, 24 * M),
        (0b1001, 16 * M),
        (0b1010, 0),
        (0b1111, 0),
    ],
)
def test_the_protected_range_of_issi_and_micron(bits, start):
    # IS25WP256 and N25Q256A data sheets: 2^(n-1) blocks of 64 KB at the top, or at the bottom.
    issi = Chip()
    issi.status = bits << 2
    assert device(issi).protected == (start, 32 * M)
    issi.registers[0x48] = 2
    assert device(issi).protected == (0, 32 * M - start)
    micron = Chip(ident=b"\x20\xba\x19", mode4=1, outcome=MICRON, bp=nothing)
    micron.status = (bits & 7) << 2 | (bits & 8) << 3
    assert device(micron).protected == (start, 32 * M)
    micron.status |= 0x20
    assert device(micron).protected == (0, 32 * M - start)


@pytest.mark.parametrize(
    "ident, status, registers, protected",
    [
        (b"\xc2\x20\x19", 0x00, {}, False),
        (b"\xc2\x20\x19", 0x04, {}, True),
        (b"\xc2\x20\x19", 0x20, {}, True),  # BP3
        (b"\xc2\x20\x19", 0x40, {}, False),  # QE
        (b"\xef\x40\x18", 0x20, {}, False),  # TB alone
        (b"\xef\x40\x18", 0x10, {}, True),
        (b"\xef\x40\x18", 0x00, {0x35: 0x40}, True),  # CMP: protected is what was not
        (b"\xef\x40\x18", 0x00, {0x35: 0x02}, False),  # QE
        (b"\xef\x40\x19", 0x20, {}, True),  # BP3
        (b"\x01\x02\x19\x4d\x01", 0x1C, {}, True),
    ],
)
def test_other_protection_counts_for_the_whole_chip(ident, status, registers, protected):
    size = 16 * M if ident[2] == 0x18 else 32 * M
    chip = Chip(size, ident, outcome=None, bp=nothing)
    chip.status = status
    chip.registers.update(registers)
    dev = device(chip)
    assert dev.protected == ((0, size) if protected else (size, size))
    if protected:
        raises(errno.EROFS, dev.writeblocks, 0, bytes(1), 0)


@pytest.mark.parametrize("maker", [0xA1, 0x68, 0x85, 0x5E, 0x0B, 0xC8, 0xEF], ids=hex)
def test_cmp_protects_what_the_status_does_not(maker):
    chip = Chip(
        16 * M, bytes((maker, 0x20, 0x18)), sfdp(basic(8 * 16 * M - 1)), outcome=None, bp=nothing
    )
    assert device(chip).protection == ""
    chip.registers[0x35] = 0x40
    dev = device(chip)
    e = raises(errno.EROFS, dev.writeblocks, 0, b"x", 0)
    assert e.args[1] == "SPI NOR protection, CMP"


def test_a_register_that_a_chip_does_not_have_protects_nothing():
    chip = Chip(16 * M, b"\x85\x20\x18", sfdp(basic(8 * 16 * M - 1)), outcome=None, bp=nothing)
    del chip.registers[0x35]
    assert device(chip).protection == ""


# Locks that are closed at each power-up: the kind, and chips that have it.
LOCKS = {
    "sst26": (b"\xbf\x26\x43", 8 * M, "SPI NOR global protection"),
    "wps": (b"\xef\x40\x18", 16 * M, "SPI NOR global protection"),
    "wpsel": (b"\xc2\x20\x19", 32 * M, "SPI NOR global protection"),
    "at25df": (b"\x1f\x48\x00", 8 * M, "SPI NOR protection, status 1c"),
}


def locked(kind):
    ident, size, _ = LOCKS[kind]
    modes = 1 << 24 | 1 << 12
    return Chip(
        size, ident, sfdp(basic(8 * size - 1, modes=modes)), opcodes4=False, outcome=None,
        bp=nothing, locks=kind,
    )  # fmt: skip


@pytest.mark.parametrize("kind", LOCKS)
def test_locks_of_power_up_are_named_and_left_alone(kind):
    chip = locked(kind)
    dev = device(chip)
    assert dev.protected == (0, dev.size) and dev.protection == LOCKS[kind][2]
    for call in (
        lambda: dev.ioctl(6, 0),
        lambda: dev.writeblocks(dev.ioctl(4, 0) - 1, b"x", 0),
        lambda: dev.erase_blocks(3, 20),
    ):
        assert raises(errno.EROFS, call).args[1] == LOCKS[kind][2]
    assert chip.shut and not chip.misuse and {op for op, _ in chip.log} <= {0x99, 0xE9}
    dev.readblocks(0, bytearray(4096))


@pytest.mark.parametrize("kind", LOCKS)
def test_locks_of_power_up_open_when_the_board_says_so(kind):
    chip = locked(kind)
    dev = spinor.SPINOR(Bus(chip), Select(chip), unlock=True)
    assert dev.protected[0] == dev.protected[1] and dev.protection == ""
    assert len(list(flash_checks(dev, dev.ioctl(4, 0) - 3, 2))) >= 10
    assert not chip.misuse and not chip.enabled


@pytest.mark.parametrize("kind", ["sst26", "at25df"])
def test_locks_that_do_not_open_are_named(kind):
    chip = locked(kind)
    chip.welded, chip.status = True, 0x80 if kind == "at25df" else 0
    dev = spinor.SPINOR(Bus(chip), Select(chip), unlock=True)
    assert raises(errno.EROFS, dev.ioctl, 6, 0).args[1].startswith("SPI NOR")


def test_an_sst26_that_is_unlocked_is_seen_to_be():
    chip = locked("sst26")
    chip.shut, chip.resets = False, ()
    dev = device(chip)
    dev.writeblocks(0, bytes(4096))
    assert chip.peek(0, 4096) == bytes(4096)


def test_nothing_is_unlocked_that_is_not_locked():
    for ident in (b"\xef\x40\x18", b"\xc2\x20\x18", b"\x85\x20\x18", b"\x9d\x60\x18"):
        chip = Chip(16 * M, ident, sfdp(basic(8 * 16 * M - 1)), outcome=None, bp=nothing)
        chip.registers.update({0x15: 0, 0x2B: 0})
        spinor.SPINOR(Bus(chip), Select(chip), unlock=True)
        assert {op for op, _ in chip.log} <= {0x99, 0xE9}


def test_protection_that_lasts_is_not_ended():
    chip = Chip()
    chip.status = 0x0C
    dev = spinor.SPINOR(Bus(chip), Select(chip), unlock=True)
    e = raises(errno.EROFS, dev.ioctl, 6, dev.protected[0] // 4096)
    assert e.args[1] == "SPI NOR protection, status 0c" and chip.status == 0x0C


def test_a_chip_that_refuses_is_named():
    chip = Chip(bp=lambda chip: (64 * K, 128 * K))
    dev = device(chip)
    assert raises(errno.EROFS, dev.ioctl, 6, 16).args[1] == "SPI NOR sector protection"
    chip.fault = "wren"
    assert raises(errno.EROFS, dev.ioctl, 6, 0).args[1] == "SPI NOR takes no write enable"


def test_a_protected_range_is_refused_before_anything_is_sent():
    chip = Chip()
    chip.status = 0x0C | 0x80  # three: 256 KB; SRWD
    dev = device(chip)
    assert dev.protected == (32 * M - 256 * K, 32 * M) and dev.locked
    first = dev.protected[0] // 4096
    del chip.log[:]
    for call in (
        lambda: dev.ioctl(6, first),
        lambda: dev.erase_blocks(first - 16, 17),
        lambda: dev.writeblocks(first - 1, bytes(8192)),
        lambda: dev.writeblocks(first, b"x", 0),
        lambda: dev.writeblocks(0, b"x", 32 * M - 1),
    ):
        raises(errno.EROFS, call)
    assert chip.log == [] and not chip.misuse
    # What lies below it works, and reads do.
    dev.writeblocks(first - 1, bytes(4096))
    dev.readblocks(first, bytearray(4096))
    # Nothing was changed about it.
    assert chip.status == 0x8C


# The fake itself: it does as silicon does, or the tests above prove nothing.


def command(chip, data, n=0):
    chip.select(0)
    for byte in data:
        chip.transfer(byte)
    out = bytes(chip.transfer(0) for _ in range(n))
    chip.select(1)
    return out


def test_the_fake_wraps_inside_a_page_and_ands():
    chip = Chip()
    command(chip, b"\x06")
    command(chip, b"\x02\x00\x01\xfe" + b"\x0f\x0e\x0d")
    while command(chip, b"\x05", 1)[0] & 1:
        pass
    assert chip.peek(0x100, 1) == b"\x0d" and chip.peek(0x1FE, 3) == b"\x0f\x0e\xff"
    command(chip, b"\x06")
    command(chip, b"\x02\x00\x01\xfe\xf8")
    assert chip.peek(0x1FE, 1) == b"\x08"
    assert chip.misuse == ["page left at 1fe"]


def test_the_fake_hears_nothing_but_questions_while_busy():
    chip = Chip()
    chip.poke(0, b"abc")
    command(chip, b"\x06")
    command(chip, b"\x20\x00\x20\x10")  # somewhere in block 2
    assert command(chip, b"\x03\0\0\0", 3) == b"\xff\xff\xff"
    command(chip, b"\x06")
    assert chip.log == [(0x20, 0x2010)] and len(chip.misuse) == 3
    status = []
    while not status or status[-1] & 1:
        status.append(command(chip, b"\x05", 1)[0])
    assert status[:-1] == [3] * chip.erase_time and status[-1] == 0
    assert command(chip, b"\x03\0\0\0", 3) == b"abc"


def test_the_fake_erases_whole_sectors_and_only_after_write_enable():
    chip = Chip()
    chip.poke(0x1FFF, b"abc")
    command(chip, b"\x20\x00\x10\x00")
    assert chip.peek(0x1FFF, 3) == b"abc"
    command(chip, b"\x06")
    command(chip, b"\x20\x00\x10\x00\x00")  # a byte too many: not executed
    assert chip.peek(0x1FFF, 3) == b"abc"
    command(chip, b"\x20\x00\x1f\xff")
    assert chip.peek(0x1FFF, 3) == b"\xffbc"
