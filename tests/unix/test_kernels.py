"""All kernels that MicroPython runs on this machine give the values of zlib and crcmod."""

import zlib

import crcmod.predefined
import pytest

from fakes.rng import Rng

from .floor import run

CRC = crcmod.predefined.mkCrcFun("crc-32")
DATA = Rng("kernels").bytes(65536 + 64)


@pytest.fixture(scope="module")
def lines():
    return [line.split() for line in run("kernels.py")]


def of(lines, kind):
    return [line[1:] for line in lines if line[0] == kind]


def test_every_crc_is_zlibs_and_crcmods(lines):
    seen = set()
    for name, start, length, value in of(lines, "crc"):
        data = DATA[int(start) : int(start) + int(length)]
        assert int(value) == zlib.crc32(data), (name, start, length)
        if len(data) < 300:
            assert int(value) == CRC(data)
        seen.add(name)
    assert seen >= {"chosen", "plain"}


def test_a_crc_goes_on_from_any_value(lines):
    rows = of(lines, "crc-from")
    assert len(rows) >= 8
    for name, seed, value in rows:
        assert int(value) == zlib.crc32(DATA[:1000], int(seed)), (name, seed)


def test_the_check_value_of_the_format(lines):
    assert {int(value) for _, value in of(lines, "crc-check")} == {0xCBF43926}


@pytest.mark.parametrize("kernel", ["blank", "poll32", "copy32", "xor", "compare"])
def test_the_other_kernels_do_what_they_say(lines, kernel):
    assert {"chosen", "plain"} <= {name for name, ok in of(lines, kernel) if ok == "ok"}


def test_a_wait_ends(lines):
    assert of(lines, "waits") == [["True", "False"]]


def test_machine_code_was_tried_where_there_is_an_emitter(lines):
    (names,) = of(lines, "done")
    assert {"chosen", "plain"} <= set(names)
    if "viper" not in names:
        pytest.skip("this MicroPython has no native emitter; only the plain kernels ran")
    assert "viper_crc" in names
