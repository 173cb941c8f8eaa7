"""Fixtures of the tests on QEMU boards."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.pico.board import Pico
from lifeboat_host.qemu import board_spec
from qemu.rig import MB, Rig, pty_board

BOARDS = [
    "qemu_virt",
    "qemu_sifive_u",
    "qemu_virt-signed",
    "qemu_sifive_u-signed",
    "qemu_virt-usb",
    "rp2_sd",
]
# What signed boards, and the board with USB disks only, run by default; all else of the list is
# for the long run.
SOME = {
    "qemu_virt-signed": ("test_signed.py", "test_docs_walk.py"),
    "qemu_sifive_u-signed": ("test_what_nobody_signed_does_not_run_and_does_not_come_back",),
    "qemu_virt-usb": ("test_usb.py", "test_simulator.py"),
}
# What tells nothing of USB disks, or what they can't keep: a command takes three frames of USB,
# whatever its size.
NOT_USB = ("test_bench.py", "test_demo.py", "test_steps_keep_their_time")
# What the Pico runs by default, at ten seconds and more for a power-on; all else, power cuts too,
# is for the long run.
PICO = (
    "test_a_healthy_power_on_changes_no_file_and_no_counter",
    "test_damage_is_healed_block_by_block",
    "test_mpremote_connects_and_runs_code",
)
PICO_DAMAGE = ("ten_flipped_bits",)
PICO_SKIPS = {
    "test_the_transfer_is_near_to_what_the_line_carries": "its line is as fast as the emulator",
    "test_a_block_that_is_blank_in_the_image_is_repaired_as_fast_as_others": (
        "this emulator does not count instructions"
    ),
    "test_sifive_spi.py": "the SPI driver is the port's",
    "test_damage.py": "it has no room for the extras parity and evidence",
    "test_signed.py": "a signed board of this kind is not built",
    "test_scrub.py": "the applications of these tests want more RAM",
    "test_the_idle_console_sleeps": "the emulator is busy when the chip is not",
    "test_a_soft_reset_reports_the_stored_verdict_and_does_not_inspect": "no memory survives it",
    "test_everything_a_storage_controllers_code_needs_is_there": "a port with fewer modules",
}
BIG = ("16MB", "32MB")
LONG = (
    "test_bench.py",
    "test_a_blank_board_becomes_protected_and_blank_again",
    "test_a_block_that_is_blank_in_the_image_is_repaired_as_fast_as_others",
    "test_going_back_to_an_older_version_makes_it_the_newest_backup",
    "test_no_write_outside_the_region",
    "test_one_that_is_never_confirmed_is_gone_after_three_starts",
    "test_the_example_of_the_page_confirms_itself",
    "test_an_image_from_a_file_on_the_user_area",
    "test_steps_keep_their_time",
    "test_the_demo_heals_every_round",
    "test_the_transfer_is_near_to_what_the_line_carries",
    "test_a_bad_update_comes_back_by_itself",
    "test_a_good_update_stays",
    "test_a_trial_survives_cuts_upon_cuts",
    "test_a_busy_application_and_the_scrubber_share_the_disk",
    "test_a_technician_scrubs_over_mpremote",
    "test_a_warm_reset_goes_on_and_a_cold_one_begins_anywhere",
    "test_an_image_that_is_wrong_is_refused",
    "test_an_update_replaces_the_older_slot_and_keeps_the_last_good_copy",
    "test_creating_is_cut",
    "test_damage_is_found_and_mended_on_request",
    "test_mpremote_has_commands_of_lifeboat",
    "test_new_code_is_sent_as_far_as_it_differs_and_backed_up",
    "test_recovering_is_cut",
    "test_the_disks_of_another_controller_are_adopted",
    "test_the_policy_may_be_to_restart",
)
# On any board, for the long run.
EVERYWHERE = (
    "test_keys",
    "test_mpremote_installs_the_package_whole",
    "test_one_that_is_never_confirmed_is_gone_after_three_starts",
    "test_provisioning",
    "test_what_is_not_well_fails_and_says_why",
)
LONG_DAMAGE = ("thousand_random_bytes", "half_of_another_image", "whole_flash_erased")


def pytest_collection_modifyitems(items):
    """What takes minutes over SPI is for the long run."""
    for item in items:
        params = getattr(item, "callspec", None) and item.callspec.params
        board = str(params.get("spec")) if params else ""
        if board == "rp2_sd":
            item.add_marker(pytest.mark.pico)
            damage = getattr(params.get("damage"), "__name__", None)
            if item.originalname not in PICO or (
                damage and (damage not in PICO_DAMAGE or params["size"] != "8MB")
            ):
                item.add_marker(pytest.mark.slow)
        some = SOME.get(board, (item.path.name,))
        if item.path.name not in some and item.originalname not in some:
            item.add_marker(pytest.mark.slow)
        if board == "qemu_virt-usb" and {item.path.name, item.originalname} & set(NOT_USB):
            item.add_marker(pytest.mark.skip(reason="not for a board with USB disks only"))
        if item.originalname in EVERYWHERE:
            item.add_marker(pytest.mark.slow)
        if board.startswith("qemu_sifive_u"):
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
    name, _, kind = request.param.partition("-")
    spec = board_spec.load(
        name, board_spec.SIGNED if kind == board_spec.SIGNED else board_spec.UNSIGNED
    )
    if kind == "usb":
        spec = spec.with_usb()
    try:
        _ = spec.firmware
    except LifeboatError as error:
        pytest.skip(str(error))
    if spec.emulator == board_spec.RP2040PY:
        if importlib.util.find_spec("rp2040py") is None:
            pytest.skip("no rp2040py, which is for x86_64 and Python 3.11 or newer only")
    elif not shutil.which(spec.qemu):
        pytest.skip(f"{spec.qemu} is not installed: run ./lifeboat setup")
    return spec


@pytest.fixture(autouse=True)
def sata_only(request, spec):
    """Skip what only a board with several disks, or with disks that report errors, can show."""
    if request.node.get_closest_marker("sata") and spec.disk_kind == "sd":
        pytest.skip("this board has one SD card, whose model hides errors of the host")


@pytest.fixture(autouse=True)
def not_on_a_pico(request, spec, monkeypatch):
    """Skip what an emulated Pico can not show."""
    if spec.emulator != board_spec.RP2040PY:
        return
    node = request.node
    why = PICO_SKIPS.get(node.path.name) or PICO_SKIPS.get(node.originalname)
    if why:
        pytest.skip(why)
    monkeypatch.setattr(Pico, "qmp", lambda *_, **__: pytest.skip("this emulator has no monitor"))


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
            command = [sys.executable, "-m", "mpremote", "connect", path]
            done = subprocess.run(
                [*command, *(["resume"] if rig.small else []), *arguments],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

    return run
