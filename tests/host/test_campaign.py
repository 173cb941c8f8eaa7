"""`lifeboat campaign`: what it runs, its account, and when it has passed."""

import json
import subprocess

import pytest
from described import check

from lifeboat_host.bench import campaign
from lifeboat_host.commands.main import main


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(monkeypatch):
    """run(entries, code): the next campaign's pytest writes these, and ends so."""
    calls = []

    def prepare(entries, code=0):
        def pytest_run(command, env, **_):
            calls.append((command, env))
            with open(env["LIFEBOAT_LEDGER"], "a") as file:
                for name, passed, *numbers in entries:
                    entry = {"test": name, "passed": passed, "seconds": 2.5}
                    entry.update({"power_loss": numbers} if numbers else {})
                    file.write(json.dumps(entry) + "\n")
            return subprocess.CompletedProcess(command, code)

        monkeypatch.setattr(campaign.subprocess, "run", pytest_run)
        return calls

    return prepare


def test_enough_that_passed_is_a_pass(cache, run, capsys):
    calls = run([("a", True, 1999999, 1999999, 1999999, 7), ("b", True, 1, 1, 1, 1)])
    assert main(["campaign", "power"]) == 0
    said = capsys.readouterr().out
    assert "about 1.5 hours" in said and said.endswith("passed\n")
    assert "2 tests" in said and "2,000,000 cut points planned" in said
    command, environment = calls[0]
    assert command[-1] == "tests/firmware/test_power_loss.py"
    assert environment["LIFEBOAT_CAMPAIGN"] == "power"


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([("a", True, 1999999, 1999999, 1999999, 7)], 0),  # too few
        ([("a", True, 2000000, 2000000, 2000000, 7), ("b", False)], 1),
        ([("a", True, 2000000, 2000000, 2000000, 7)], 2),  # it was interrupted
        ([], 0),
    ],
)
def test_all_else_is_none(cache, run, capsys, entries, code):
    run(entries, code)
    assert main(["campaign", "power"]) == 1
    assert capsys.readouterr().out.endswith("NOT passed\n")


def test_it_goes_on_and_counts_a_test_once(cache, run, capsys):
    run([("a", False), ("b", True, 1000000, 1000000, 1000000, 7)], 1)
    assert main(["campaign", "power"]) == 1
    run([("a", True, 1000000, 1000000, 1000000, 7)])
    assert main(["campaign", "power", "--json"]) == 0
    found = capsys.readouterr()
    account = json.loads(found.out.split("\n")[-2])
    assert "2 of its tests were done before" in found.err
    assert account["cut_points_planned"] == 2000000 and account["failed"] == []
    check("campaign", account)


def test_other_sources_begin_anew(cache, run, capsys, monkeypatch):
    run([("a", True, 2000000, 2000000, 2000000, 7)])
    assert main(["campaign", "power"]) == 0
    run([])
    monkeypatch.setattr(campaign, "_sources", lambda: "others")
    assert main(["campaign", "power"]) == 1
    run([("a", True, 2000000, 2000000, 2000000, 7)])
    assert main(["campaign", "power"]) == 0
    run([])
    assert main(["campaign", "power", "--fresh"]) == 1


def test_an_account_that_can_not_be_kept_is_told(tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("LIFEBOAT_CACHE", str(file))
    assert main(["campaign", "power"]) == 1
    assert "campaign" in capsys.readouterr().err


def test_each_campaign_has_tests_that_exist():
    for one in campaign.CAMPAIGNS.values():
        for path in one.tests:
            if path.startswith("tests/"):
                assert (campaign.tree.root() / path).exists()
        assert one.hours > 0 and one.counts[2] > 0


def test_an_unknown_one_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["campaign", "nothing"])
    assert stop.value.code == 2
