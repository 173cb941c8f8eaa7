"""`lifeboat demo` heals everything it damages, and says so only then."""

import json

import pytest

from lifeboat_host import boards, demo
from lifeboat_host.errors import EXIT_ERROR, EXIT_OK


@pytest.fixture
def scratch_cache(spec, tmp_path, monkeypatch):
    """A cache of the test's own, with the board's firmware and half a megabyte to protect."""
    real = boards.cache()
    (tmp_path / "boards").symlink_to(real / "boards")
    (tmp_path / "payload").mkdir()
    (tmp_path / "payload" / "os.bin").write_bytes(bytes(range(256)) * 16384)
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path))
    return tmp_path


def test_the_demo_heals_every_round(spec, scratch_cache, capsys):
    assert demo.main(["--board", spec.id, "--json"]) == EXIT_OK
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] and all(r["identical"] and r["applications_ran"] for r in told["rounds"])
    assert len(told["rounds"]) == (10 if spec.disk_kind == "sata" else 7)


def test_the_demo_fails_when_something_did_not_heal(spec, scratch_cache, monkeypatch, capsys):
    def beyond_repair(stage):
        for disk in range(len(stage.disks)):
            stage.rot(disk, [1])
        stage.garble(1)

    monkeypatch.setattr(demo, "ROUNDS", (demo.Round("beyond repair", beyond_repair),))
    assert demo.main(["--board", spec.id]) == EXIT_ERROR
    assert "NOT ALL HEALED: 0 of 1" in capsys.readouterr().out
