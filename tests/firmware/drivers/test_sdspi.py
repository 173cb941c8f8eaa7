"""The SD driver over a byte-exact card model that misbehaves in one way at a time.

The model follows the specification. Where QEMU's card differs, tests/qemu/test_drivers.py sees its
way: it checks no CRC, says "idle" in the response to READ_OCR (0x01; here 0x00), and refuses what
lies past its end with an address error (0x20; here a parameter error, 0x40). It delivers the block
before without a word when its medium fails (here: `stale`, which only a checksum over the content
can find).
"""

import errno

import crcmod.predefined
import pytest
from conformance.disk import disk_checks

from fakes.rng import Rng
from lifeboat.drivers import sdspi
from lifeboat.drivers.sdspi import SDCard
from lifeboat_host.pico.sdcard import Bus, Card, Clock, crc7, crc16

SECTORS = {"sdsc1": 1 << 16, "sdsc": 1 << 22, "sdhc": 1 << 17, "sdxc": 1 << 28}
ONE = Rng("sd").bytes(512)
FOUR = Rng("sd").bytes(2048)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(sdspi, "ticks_ms", made.ticks_ms)
    monkeypatch.setattr(sdspi, "sleep_ms", made.sleep_ms)
    return made


@pytest.fixture
def insert(clock):
    """insert(kind) -> bus with a card; what a host may not do is found at the end."""
    made = []

    def put(kind="sdhc", sectors=0, level=0xFF):
        card = Card("sdhc" if kind == "sdxc" else kind, sectors or SECTORS.get(kind, 4096), clock)
        made.append(card)
        return Bus(card, clock, level)

    yield put
    assert [card.complaints for card in made] == [[]] * len(made)


@pytest.fixture
def bus(insert):
    return insert()


@pytest.fixture
def card(bus):
    return bus.card


@pytest.fixture
def sd(bus):
    return SDCard(bus, bus.cs)


def fails(call, *args):
    """errno of the OSError that the call raises."""
    with pytest.raises(OSError) as e:
        call(*args)
    assert type(e.value.args[0]) is int
    return e.value.args[0]


def named(call, *args):
    """errno of the OSError that the call raises, and what it says in words."""
    with pytest.raises(OSError) as e:
        call(*args)
    return e.value.args


def read(sd, lba, n=1):
    buf = bytearray(512 * n)
    sd.readblocks(lba, buf)
    return buf


def out_of_use(sd):
    return {
        fails(sd.readblocks, 0, bytearray(512)),
        fails(sd.writeblocks, 0, bytearray(512)),
        fails(sd.ioctl, 3, 0),
        fails(sd.ioctl, 4, 0),
    } == {errno.ENODEV}


# CRC, against the examples of the specification (4.5) and crcmod.


def test_crc7_gives_the_specifications_examples():
    for frame in ("400000000095", "5100000000" + "55", "48000001aa87"):
        frame = bytes.fromhex(frame)
        assert sdspi._crc7(frame, 5) == frame[5] == crc7(frame[:5]) << 1 | 1
    # the response to CMD17
    assert sdspi._crc7(bytes.fromhex("1100000900"), 5) == 0b0110011 << 1 | 1


def test_the_models_crc16_is_right():
    assert crc16(b"\xff" * 512) == b"\x7f\xa1"
    assert crc16(ONE) == crcmod.predefined.mkCrcFun("xmodem")(ONE).to_bytes(2, "big")


# Cards that behave.


@pytest.mark.parametrize("kind", sorted(SECTORS))
def test_every_kind_of_card_passes_the_conformance_suite(insert, kind):
    bus = insert(kind)
    sd = SDCard(bus, bus.cs)
    assert sd.sectors == SECTORS[kind]
    assert sd.cdv == (512 if kind.startswith("sdsc") else 1)
    assert len(list(disk_checks(sd, 1000, 64, 1 << 20))) == 10
    assert len(list(disk_checks(sd, sd.sectors - 64, 64, 1 << 20))) == 10


def test_the_card_is_told_to_check_before_anything_is_read_or_written(card, sd):
    assert card.crc_on
    assert card.commands[:3] == [0, 8, 59]


def test_a_card_says_who_it_is(sd):
    assert (sd.model, sd.serial, sd.name) == ("LIFEB", "1234abcd", "sd0")


def test_an_object_without_init_touches_nothing(bus):
    sd = SDCard(bus, bus.cs, init=False, name="sd1")
    assert bus.bytes == 0 and not bus.settings and sd.name == "sd1"
    assert out_of_use(sd)
    assert sd.ioctl(1, 0) == 0
    assert sd.ioctl(4, 0) == sd.sectors == SECTORS["sdhc"]


def test_several_blocks_are_one_command(card, sd):
    before = len(card.commands)
    sd.writeblocks(7, FOUR)
    assert read(sd, 7, 4) == FOUR
    assert card.commands[before:] == [25, 13, 18, 12]
    assert (sd.reads, sd.writes) == (1, 1)


def test_one_block_is_one_command(card, sd):
    before = len(card.commands)
    sd.writeblocks(7, ONE)
    assert read(sd, 7) == ONE
    assert card.commands[before:] == [24, 13, 17]


def test_nothing_is_sent_for_what_lies_outside(bus, sd):
    before = bus.bytes
    assert fails(sd.readblocks, sd.sectors - 1, bytearray(1024)) == errno.EINVAL
    assert fails(sd.writeblocks, sd.sectors - 1, bytes(1024)) == errno.EINVAL
    assert bus.bytes == before


def test_the_last_block_can_be_read_in_a_row(card, sd):
    sd.writeblocks(sd.sectors - 4, FOUR)
    assert read(sd, sd.sectors - 4, 4) == FOUR


# The bus.


def test_identification_is_slow_then_the_callers_speed_holds(bus):
    SDCard(bus, bus.cs, 20000000)
    speeds = [settings["baudrate"] for settings in bus.settings]
    assert 100000 <= speeds[0] <= 400000 and speeds[1:] == [20000000]


# The RP2040's SPI: an even prescaler and a divider up to 256, and never more than asked for. An
# STM32's: a power of two, here the one above.
def rp2(source, asked):
    prescale = next(p for p in range(2, 256, 2) if source < p * 256 * asked)
    return source // (prescale * -(-source // (prescale * asked)))


def next_power_of_two(source, asked):
    divider = 2
    while source // (2 * divider) >= asked:
        divider *= 2
    return source // divider


@pytest.mark.parametrize("source", [12000000, 48000000, 80000000, 125000000, 150000000])
@pytest.mark.parametrize("rule", [rp2, next_power_of_two])
def test_until_the_card_is_ready_the_bus_is_slow_whatever_a_port_makes_of_it(
    card, bus, source, rule
):
    plain, speeds = bus.init, []

    def init(baudrate, **settings):
        speeds.append(rule(source, baudrate))
        plain(baudrate=speeds[-1], **settings)

    bus.init = init
    SDCard(bus, bus.cs, 4000000)
    assert 100000 <= speeds[0] <= 400000 < speeds[1] and card.complaints == []


def test_the_speed_comes_back_when_there_is_no_card(clock):
    bus = Bus(None, clock)
    assert fails(SDCard, bus, bus.cs, 5000000) == errno.ENODEV
    assert bus.baudrate == 5000000


def test_without_a_baudrate_the_bus_stays_as_the_caller_set_it(bus):
    bus.baudrate = 300000
    SDCard(bus, bus.cs, None)
    assert bus.settings == []


def test_init_card_takes_another_speed_for_good(bus, sd):
    sd.init_card(8000000)
    assert bus.baudrate == 8000000
    sd.init_card()
    assert bus.baudrate == 8000000


@pytest.mark.parametrize("n_cr", [0, 1, 8])
def test_responses_may_take_up_to_8_bytes(insert, n_cr):
    bus = insert()
    bus.card.n_cr = n_cr
    assert SDCard(bus, bus.cs).sectors


# Identification.


@pytest.mark.parametrize("level", [0xFF, 0x00])
def test_an_empty_slot_is_found_out_soon(clock, level):
    bus = Bus(None, clock, level)
    assert fails(SDCard, bus, bus.cs) == (errno.ENODEV if level else errno.ETIMEDOUT)
    assert clock.ticks_ms() < (200 if level else 2100)


def test_a_card_may_take_a_second_to_get_ready(insert):
    bus = insert()
    bus.card.init_ms = 1000
    assert SDCard(bus, bus.cs).sectors


def test_a_card_that_never_gets_ready_is_given_up(insert, clock):
    bus = insert()
    bus.card.init_ms = 1 << 40
    assert fails(SDCard, bus, bus.cs) == errno.ETIMEDOUT
    assert clock.ticks_ms() < 2000


@pytest.mark.parametrize("kind", ["mmc", "sduc"])
def test_cards_of_other_kinds_are_refused(insert, kind):
    bus = insert(kind)
    assert fails(SDCard, bus, bus.cs) == errno.ENODEV


def test_a_card_that_does_not_like_the_voltage_is_refused(insert):
    bus = insert()
    bus.card.check_voltage = False
    assert fails(SDCard, bus, bus.cs) == errno.ENODEV


@pytest.mark.parametrize("kind", ["sdsc1", "sdhc"])
def test_a_card_that_knows_no_crc_mode_is_used_and_told(insert, kind):
    bus = insert(kind)
    bus.card.no_crc = True
    sd = SDCard(bus, bus.cs)
    assert sd.note == "no CRC (CMD59)"
    assert len(list(disk_checks(sd, 1000, 64, 1 << 20))) == 10
    # Another card in its place: what is told is of the card that is there.
    bus.card.power_up()
    bus.card.no_crc = False
    sd.ioctl(1, 0)
    assert sd.note == "" and bus.card.crc_on


@pytest.mark.parametrize("r1", [0x09, 0x41])
def test_a_card_that_fails_to_turn_crcs_on_is_refused(insert, r1):
    bus = insert()
    bus.card.reject = {59: r1}
    assert named(SDCard, bus, bus.cs) == (errno.EIO, "CMD59: %02x" % r1)


def test_a_card_that_checks_crcs_has_nothing_to_note(sd):
    assert sd.note == ""


@pytest.mark.parametrize("kind", ["sdsc1", "sdhc"])
def test_a_card_may_hold_its_line_low_until_cmd0(insert, clock, kind):
    bus = insert(kind)
    bus.card.low = True
    sd = SDCard(bus, bus.cs)
    sd.writeblocks(7, FOUR)
    assert read(sd, 7, 4) == FOUR
    assert clock.ticks_ms() < 2500


@pytest.mark.parametrize("deaf, found", [(4, True), (9, True), (10, False)])
def test_a_card_may_hear_cmd0_late(insert, clock, deaf, found):
    bus = insert()
    bus.card.deaf = deaf
    if found:
        assert SDCard(bus, bus.cs).sectors == SECTORS["sdhc"]
    else:
        assert named(SDCard, bus, bus.cs) == (errno.ENODEV, "no card (CMD0)")
    assert clock.ticks_ms() < 200


def test_a_card_that_is_low_and_deaf_is_found_too(insert):
    bus = insert()
    bus.card.low, bus.card.deaf = True, 9
    assert SDCard(bus, bus.cs).sectors


def test_a_card_of_version_1_may_say_nothing_to_cmd8(insert):
    bus = insert("sdsc1")
    bus.card.mute = {8}
    sd = SDCard(bus, bus.cs)
    assert (sd.sectors, sd.cdv) == (SECTORS["sdsc1"], 512)


def test_a_card_that_writes_still_is_not_reset_meanwhile(card, sd):
    """As after a reset of the board. What the card may not be told is found at the end."""
    card.write_ms = 900
    with pytest.raises(KeyboardInterrupt):
        sd._answer = interrupt(sd)
        sd.writeblocks(5, ONE)
    again = SDCard(sd.spi, sd.cs)
    assert read(again, 5) == ONE


def interrupt(sd):
    """The response to a block comes, and the host is reset."""
    answer = sd._answer

    def interrupted(most):
        got = answer(most)
        if most == 0xFE:
            raise KeyboardInterrupt
        return got

    return interrupted


def test_why_a_card_can_not_be_used_is_named(insert, clock):
    assert named(SDCard, (bus := Bus(None, clock)), bus.cs)[1] == "no card (CMD0)"
    assert named(SDCard, (bus := Bus(None, clock, 0)), bus.cs)[1] == "data line stays low"
    bus = insert("mmc")
    assert named(SDCard, bus, bus.cs) == (errno.ENODEV, "no SD card, or an MMC (ACMD41)")
    bus = insert("sduc")
    assert named(SDCard, bus, bus.cs) == (errno.ENODEV, "CSD version 2")
    bus = insert()
    bus.card.check_voltage = False
    assert named(SDCard, bus, bus.cs) == (errno.ENODEV, "voltage refused (CMD8)")
    bus = insert()
    bus.card.init_ms = 1 << 40
    assert named(SDCard, bus, bus.cs) == (errno.ETIMEDOUT, "not ready (ACMD41)")
    bus = insert()
    bus.card.mute = {9}
    assert named(SDCard, bus, bus.cs) == (errno.ETIMEDOUT, "CMD9: ff")


@pytest.mark.parametrize("command", [8, 59, 58, 9])
def test_no_response_to_a_command_is_a_timeout(insert, command):
    bus = insert()
    bus.card.mute = {command}
    assert fails(SDCard, bus, bus.cs) == errno.ETIMEDOUT


@pytest.mark.parametrize("byte", [0, 5, 9])
def test_a_damaged_csd_is_not_believed(insert, byte):
    bus = insert()
    bus.card.spoil_csd = byte
    assert fails(SDCard, bus, bus.cs) == errno.EIO


def test_registers_with_a_wrong_crc16_are_taken(insert):
    bus = insert()
    bus.card.register_crc = False
    sd = SDCard(bus, bus.cs)
    assert sd.sectors == SECTORS["sdhc"] and sd.model == "LIFEB"


def test_a_card_without_a_cid_has_no_name(insert):
    bus = insert()
    bus.card.reject = {10: 0x04}
    sd = SDCard(bus, bus.cs)
    assert (sd.model, sd.serial) == ("", "") and sd.sectors


@pytest.mark.parametrize("where", ["reading", "waiting for a block", "inside a block"])
def test_a_card_left_in_the_middle_of_something_is_found(bus, sd, card, where):
    sd.writeblocks(0, FOUR)
    bus.cs(0)
    bus.write(b"\xff")
    command = b"\x52\0\0\0\0" if where == "reading" else b"\x59\0\0\0\0"
    bus.write(command + bytes((crc7(command) << 1 | 1,)) + b"\xff" * 4)
    if where == "reading":
        bus.read(100, 0xFF)
    elif where == "inside a block":
        bus.write(b"\xfc" + ONE[:100])
    bus.cs(1)
    bus.write(b"\xff")
    again = SDCard(bus, bus.cs)
    assert read(again, 0, 4) == FOUR
    card.complaints.clear()  # the host that left it there


# Reading.


@pytest.mark.parametrize("n", [1, 4])
def test_damaged_data_is_an_error_and_not_tried_again(card, sd, n):
    card.blocks[9] = ONE
    card.bad_crc = {9}
    before = card.commands.count(17) + card.commands.count(18)
    assert fails(read, sd, 10 - n, n) == errno.EIO
    assert sd.token == 0xFE
    assert card.commands.count(17) + card.commands.count(18) == before + 1
    card.bad_crc = set()
    assert read(sd, 9) == ONE


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("token", [0x01, 0x04, 0x08])
def test_an_error_token_is_an_error(card, sd, n, token):
    card.error_token = {3: token}
    assert fails(read, sd, 3, n) == errno.EIO
    assert sd.token == token and sd.status
    # what the card remembers of it does not fail the next write
    sd.writeblocks(0, ONE)
    assert read(sd, 0) == ONE


@pytest.mark.parametrize("n", [1, 4])
def test_a_block_that_never_comes_is_a_timeout(card, sd, clock, n):
    card.no_token = {3}
    start = clock.ticks_ms()
    assert fails(read, sd, 4 - n, n) == errno.ETIMEDOUT
    assert clock.ticks_ms() - start < 1000
    assert out_of_use(sd)
    card.no_token = set()
    sd.ioctl(1, 0)
    assert read(sd, 3) == bytes(512)


def test_a_card_that_does_not_understand_the_stop_is_out_of_use(card, sd):
    card.garble = {12}
    assert fails(read, sd, 0, 4) == errno.ETIMEDOUT
    assert out_of_use(sd)
    card.garble = set()
    sd.ioctl(1, 0)
    assert read(sd, 0) == bytes(512)


@pytest.mark.parametrize("gap", [0, 1, 2, 3, 70])
def test_blocks_may_come_at_any_distance(card, sd, gap):
    # 0 is less than the specification has (N_AC, 7.5.4).
    card.gap = gap
    sd.writeblocks(0, FOUR)
    assert read(sd, 0, 4) == FOUR
    assert read(sd, 1) == FOUR[512:1024]
    card.error_token = {2: 0x04}
    assert fails(read, sd, 0, 4) == errno.EIO
    assert sd.token == 0x04


@pytest.mark.parametrize("n", [1, 4])
def test_a_slow_card_within_the_deadline_is_waited_for(bus, card, sd, n):
    bus.baudrate = 100000
    card.blocks[0] = ONE
    card.read_ms = 450
    assert read(sd, 0, n)[:512] == ONE


def test_a_stale_block_passes_as_its_checksum_is_right(card, sd):
    # QEMU's card does so when its medium fails: only the content can tell.
    card.blocks[0] = ONE
    card.stale = {1}
    read(sd, 0)
    assert read(sd, 1) == ONE


# Writing.


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("response", [0x0B, 0x0D])
def test_a_refused_block_is_an_error(card, sd, n, response):
    card.response = {2: response}
    assert fails(sd.writeblocks, 2, FOUR[: 512 * n]) == errno.EIO
    assert sd.token & 0x1F == response
    assert 2 not in card.blocks and 3 not in card.blocks
    card.response = {}
    sd.writeblocks(2, FOUR[: 512 * n])
    assert read(sd, 2, n) == FOUR[: 512 * n]


@pytest.mark.parametrize("n", [1, 4])
def test_a_block_without_an_answer_is_a_timeout(card, sd, n):
    card.response = {2: 0xFF}
    assert fails(sd.writeblocks, 2, FOUR[: 512 * n]) == errno.ETIMEDOUT


@pytest.mark.parametrize("n", [1, 4])
def test_data_damaged_on_its_way_is_noticed_by_the_card(card, sd, n):
    card.noise = {2}
    assert fails(sd.writeblocks, 2, FOUR[: 512 * n]) == errno.EIO
    assert sd.token & 0x1F == 0x0B
    assert 2 not in card.blocks


def test_a_command_damaged_on_its_way_is_an_error(card, sd):
    card.garble = {24}
    assert fails(sd.writeblocks, 2, ONE) == errno.EIO
    assert sd.r1 == 0x08 and not card.blocks
    card.garble = set()
    sd.writeblocks(2, ONE)
    assert card.blocks[2] == ONE


@pytest.mark.parametrize("command, n", [(17, 1), (18, 4), (24, 1), (25, 4)])
def test_a_rejected_command_is_an_error(card, sd, command, n):
    card.reject = {command: 0x40}
    call = sd.readblocks if command < 20 else sd.writeblocks
    assert fails(call, 0, bytearray(512 * n)) == errno.EIO
    assert sd.r1 == 0x40
    card.reject = {}
    call(0, bytearray(512 * n))


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("bits", [0x04, 0x10, 0x20])
def test_an_error_that_only_the_status_tells_is_an_error(card, sd, n, bits):
    card.late = {2: bits}
    assert fails(sd.writeblocks, 2, FOUR[: 512 * n]) == errno.EIO
    assert sd.status == bits
    card.late = {}
    sd.writeblocks(2, FOUR[: 512 * n])
    assert sd.status == 0


@pytest.mark.parametrize("n", [1, 4])
def test_a_slow_write_within_the_deadline_is_waited_for(bus, card, sd, n):
    bus.baudrate = 100000
    card.write_ms = 900
    sd.writeblocks(2, FOUR[: 512 * n])
    assert read(sd, 2, n) == FOUR[: 512 * n]


@pytest.mark.parametrize("n", [1, 4])
def test_a_card_that_stays_busy_is_given_up(bus, card, sd, clock, n):
    bus.baudrate = 100000
    card.hang = {3}
    start = clock.ticks_ms()
    assert fails(sd.writeblocks, 4 - n, FOUR[: 512 * n]) == errno.ETIMEDOUT
    assert clock.ticks_ms() - start < 2600
    assert out_of_use(sd)
    assert fails(sd.ioctl, 1, 0) == errno.ETIMEDOUT
    card.power_up()
    sd.ioctl(1, 0)
    assert read(sd, 3) == FOUR[512 * (n - 1) : 512 * n]


def test_sync_asks_the_card(card, sd):
    before = len(card.commands)
    assert sd.ioctl(3, 0) == 0
    assert card.commands[before:] == [13]
    assert sd.flushes == 1


def test_a_write_that_the_card_forgets_can_only_be_read_back(card, sd):
    card.lose = {2}
    sd.writeblocks(2, ONE)
    assert read(sd, 2) == bytes(512)


# Pulled out and put back.


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("after", [1, 9, 200, 530, 1100])
def test_a_card_pulled_in_the_middle_is_an_error(bus, card, sd, write, after):
    bus.cut_at = bus.bytes + after
    error = fails(sd.writeblocks if write else sd.readblocks, 0, bytearray(2048))
    assert error == errno.ETIMEDOUT
    assert out_of_use(sd)
    assert fails(sd.ioctl, 1, 0) == errno.ENODEV


@pytest.mark.parametrize("after", [1, 9, 200, 530])
def test_a_pulled_card_with_its_line_held_low_is_an_error(insert, after):
    bus = insert(level=0)
    sd = SDCard(bus, bus.cs)
    bus.cut_at = bus.bytes + after
    assert fails(sd.readblocks, 0, bytearray(2048)) in (errno.ETIMEDOUT, errno.EIO)
    fails(sd.readblocks, 0, bytearray(2048))
    assert out_of_use(sd)


def test_the_same_card_put_back_works_again(bus, card, sd):
    sd.writeblocks(5, ONE)
    bus.card = None
    assert fails(read, sd, 5) == errno.ETIMEDOUT
    card.power_up()
    bus.card = card
    assert out_of_use(sd)
    sd.ioctl(1, 0)
    assert read(sd, 5) == ONE


def test_a_card_changed_behind_our_back_is_not_taken_for_the_old_one(bus, insert, sd, clock):
    other = insert("sdsc").card
    other.serial = 0xBEEF
    other.blocks[5] = ONE
    bus.card = other
    assert fails(sd.writeblocks, 5, bytes(512)) == errno.ETIMEDOUT
    sd.ioctl(1, 0)
    assert (sd.sectors, sd.serial, sd.cdv) == (SECTORS["sdsc"], "0000beef", 512)
    assert read(sd, 5) == ONE


def test_ioctl_1_finds_a_changed_card_by_itself(bus, insert, sd):
    bus.card = insert("sdsc").card
    sd.ioctl(1, 0)
    assert sd.sectors == SECTORS["sdsc"]


def test_ioctl_1_costs_a_healthy_card_one_command(card, sd):
    before = len(card.commands)
    sd.ioctl(1, 0)
    assert card.commands[before:] == [13]


def test_a_card_reset_behind_our_back_is_out_of_use(card, sd):
    card._ready = False
    card.commands.clear()
    assert fails(read, sd, 0) == errno.ENODEV
    assert out_of_use(sd)
    card.complaints.clear()  # the bus is fast


def test_after_ioctl_2_the_card_is_out_of_use(sd):
    sd.ioctl(2, 0)
    assert out_of_use(sd)
    sd.ioctl(1, 0)
    read(sd, 0)


def test_ctrl_c_in_a_transfer_leaves_a_card_that_comes_back(bus, card, sd, monkeypatch):
    sd.writeblocks(0, FOUR)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sdspi, "sums", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(sd, 0, 4)
    monkeypatch.undo()
    assert not bus.selected and out_of_use(sd)
    sd.ioctl(1, 0)
    assert read(sd, 0, 4) == FOUR


# Whatever happens.


@pytest.mark.parametrize("write", [False, True])
def test_the_card_is_released_whatever_happens(bus, card, sd, write):
    call = sd.writeblocks if write else sd.readblocks
    for n in (1, 4):
        start = bus.bytes
        call(0, bytearray(512 * n))
        for after in range(1, bus.bytes - start, 97):
            bus.cut_at = bus.bytes + after
            fails(call, 0, bytearray(512 * n))
            assert not bus.selected
            card.power_up()
            bus.card, bus.cut_at = card, None
            sd.ioctl(1, 0)
