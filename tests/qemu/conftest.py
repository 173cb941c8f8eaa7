"""Fixtures of the tests on QEMU boards."""

import shutil
import subprocess
import sys

import pytest

from lifeboat_host import boards
from lifeboat_host.errors import LifeboatError
from qemu.rig import MB, Rig, pty_board

BOARDS = ["qemu_virt", "qemu_sifive_u"]
BIG = ("16MB", "32MB")
LONG = (
    "test_bench.py",
    "test_power_cuts.py",
    "test_a_blank_board_becomes_protected_and_blank_again",
    "test_a_block_that_is_blank_in_the_image_is_repaired_as_fast_as_others",
    "test_going_back_to_an_older_version_makes_it_the_newest_backup",
    "test_no_write_outside_the_region",
    "test_steps_keep_their_time",
    "test_the_demo_heals_every_round",
    "test_the_transfer_is_near_to_what_the_line_carries",
)
LONG_DAMAGE = ("thousand_random_bytes", "half_of_another_image")


def pytest_collection_modifyitems(items):
    """What takes minutes over SPI is for the long run."""
    for item in items:
        params = getattr(item, "callspec", None) and item.callspec.params
        if params and params.get("spec") == "qemu_sifive_u":
            damage = getattr(params.get("damage"), "__name__", None)
            if (
                params.get("size") in BIG
                or damage in LONG_DAMAGE
                or item.path.name in LONG
                or item.originalname in LONG
            ):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=BOARDS)
def spec(request):
    """Each board in turn, or a skip that says what is missing to run it."""
    spec = boards.load(request.param)
    try:
        _ = spec.firmware
    except LifeboatError as error:
        pytest.skip(str(error))
    if not shutil.which(spec.qemu):
        pytest.skip(f"{spec.qemu} is not installed: run ./lifeboat setup")
    return spec


@pytest.fixture(autouse=True)
def sata_only(request, spec):
    """Skip what only a board with several disks, or with disks that report errors, can show."""
    if request.node.get_closest_marker("sata") and spec.disk_kind != "sata":
        pytest.skip("this board has one SD card, whose model hides errors of the host")


@pytest.fixture
def empty_rig(spec, tmp_path):
    """A rig without media."""
    yield Rig(spec, tmp_path)
    shutil.rmtree(tmp_path, ignore_errors=True)  # hundreds of megabytes a test


@pytest.fixture(scope="session")
def protected(spec, tmp_path_factory):
    """size -> a rig that was powered on once: code intact, backup on two disks."""
    made = {}

    def get(size):
        if size not in made:
            rig = Rig(spec, tmp_path_factory.mktemp(f"protected{size // MB}"))
            rig.make_image(size)
            rig.add_disks()
            report, _ = rig.power_on()
            assert {m["state"] for m in report["members"]} == {"created"}, report
            made[size] = rig
        return made[size]

    yield get
    for rig in made.values():
        shutil.rmtree(rig.folder, ignore_errors=True)


@pytest.fixture
def rig2(protected, tmp_path):
    """A protected board with 2 MB of embedded code."""
    yield protected(2 * MB).copy_to(tmp_path)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def rig8(protected, tmp_path):
    """A protected board with 8 MB of embedded code."""
    yield protected(8 * MB).copy_to(tmp_path)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def mpremote():
    """mpremote(rig, *arguments): run the real tool against the board, over a pty."""

    def run(rig, *arguments, timeout=60):
        with pty_board(rig) as (path, _):
            done = subprocess.run(
                [sys.executable, "-m", "mpremote", "connect", path, *arguments],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

    return run
