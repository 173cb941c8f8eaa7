"""`lifeboat demo` heals everything it damages, and says so only then."""

import pytest
from described import check

from lifeboat_host.base import tree
from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK
from lifeboat_host.bench import demo
from lifeboat_host.model.formats import parity_groups
from lifeboat_host.qemu import board_spec


@pytest.fixture
def scratch_cache(spec, tmp_path, monkeypatch):
    """A cache of the test's own, with the board's firmware and half a megabyte to protect."""
    real = tree.cache()
    (tmp_path / "boards").symlink_to(real / "boards")
    (tmp_path / "payload").mkdir()
    (tmp_path / "payload" / "os.bin").write_bytes(bytes(range(256)) * 16384)
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path))
    return tmp_path


def board(spec):
    """The demo's options for a board."""
    return ["--board", spec.id] + ["--sign"] * (spec.policy == board_spec.SIGNED)


def test_the_demo_heals_every_round(spec, scratch_cache, capsys):
    assert demo.main([*board(spec), "--json"]) == EXIT_OK
    told = check("demo", capsys.readouterr().out)
    assert told["ok"] and all(r["identical"] and r["applications_ran"] for r in told["rounds"])
    rounds = {"pflash": 13, "mtd": 10, "port": 4}[spec.flash_kind]
    assert len(told["rounds"]) == rounds + (spec.policy == board_spec.SIGNED)


def test_the_demo_fails_when_something_did_not_heal(spec, scratch_cache, monkeypatch, capsys):
    def beyond_repair(stage):
        # Two blocks of a group: parity makes one of them again, not both.
        blocks = [1, 1 + parity_groups(stage.manifest.block_count)]
        for disk in range(len(stage.disks)):
            stage.rot(disk, blocks)
        for block in blocks:
            stage.garble(block)

    monkeypatch.setattr(demo, "ROUNDS", (demo.Round("beyond repair", beyond_repair),))
    monkeypatch.setattr(demo, "UPDATES", ())
    assert demo.main(board(spec)) == EXIT_ERROR
    assert "NOT ALL HEALED: 0 of 1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("usb, rounds", [("beside", 13), ("only", 10)])
@pytest.mark.parametrize("spec", ["qemu_virt"], indirect=True)
def test_the_demo_heals_with_a_usb_disk(spec, scratch_cache, capsys, usb, rounds):
    assert demo.main([*board(spec), "--usb", usb, "--json"]) == EXIT_OK
    told = check("demo", capsys.readouterr().out)
    names = [member["disk"] for member in told["first"]["members"]]
    assert names == (["sata0", "usb0"] if usb == "beside" else ["usb0"])
    assert told["ok"] and len(told["rounds"]) == rounds
