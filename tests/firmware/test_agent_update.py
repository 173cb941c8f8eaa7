"""An update over the line: what `lifeboat update` asks of a board, spoken to as the host does."""

import json

import machine
import pytest

import fakes.deflate  # noqa: F401 - the agent needs it
import lifeboat
from fakes import forgery, updates
from fakes.updates import NEW, OLD
from lifeboat import running, trial
from lifeboat.agent import Agent
from sim.power import Power

from .test_agent import END, Line, parcel


class Session:
    """A session of the host with a board."""

    def __init__(self, board, capsys):
        self.board, self._capsys = board, capsys
        self.line = Line()
        self.agent = Agent(board, self.line)

    def __call__(self, name, *args, typed=b""):
        self.line.typed, self.line.said = typed, b""
        self._capsys.readouterr()
        self.agent.call(name, *args)
        assert self.line.typed == b""
        return json.loads(self._capsys.readouterr().out.strip().split("\n")[-1][7:])

    def said(self):
        return self.line.said.replace(b"+", b"")  # but the acknowledgements of pieces


@pytest.fixture
def start(capsys, monkeypatch):
    monkeypatch.setattr(machine, "reset", lambda: None, raising=False)
    board = updates.running_old()

    def begin():
        running.attended = trial.staging = False
        board.supply(Power())
        return Session(board, capsys)

    yield begin
    running.attended = trial.staging = False


def send(session, blocks, image=NEW):
    typed = b"".join(parcel(n, updates.block_of(image, n)) for n in blocks) + END
    return session("put", typed=typed)


def staged(session):
    about = session("stage", typed=parcel(0, updates.manifest_of(NEW)))["ok"]
    assert (about["version"], about["disks"]) == ("2.0", ["disk0", "disk1"])
    assert session.said() == b"="
    while session("gather", 2)["ok"]:
        pass
    return session


def power_on(session):
    session.board.supply(Power())
    running.attended = trial.staging = False
    return lifeboat.power_on(session.board).data["version"]


def test_a_build_is_staged_tried_and_confirmed(start):
    session = staged(start())
    assert session("needed") == {"ok": [[0, 6]]}
    assert send(session, [3]) == {"ok": 1} and session.said() == b"="
    assert session("needed") == {"ok": [[0, 3], [4, 2]]}
    assert send(session, [5, 0, 4, 1, 2]) == {"ok": 5}
    assert session("needed") == {"ok": []}
    assert session("commit") == {"ok": ["disk0", "disk1"]}
    answer = session("arm", 5)["ok"]
    assert answer["trial"]["state"] == "trying" and answer["trial"]["limit"] == 5
    assert answer["offers"] == []
    assert power_on(session) == "2.0"
    assert start()("confirm")["ok"]["trial"]["state"] == "confirmed"
    assert power_on(session) == "2.0" and bytes(session.board.nor.data) == bytes(NEW)


def test_a_damaged_parcel_is_asked_for_again(start):
    session = staged(start())
    right = updates.block_of(NEW, 1)
    typed = parcel(1, right, crc=7) + parcel(1, right) + END
    assert session("put", typed=typed) == {"ok": 1} and session.said() == b"~="


def test_bytes_that_are_not_the_builds_are_refused(start):
    session = staged(start())
    answer = session("put", typed=parcel(1, updates.block_of(OLD, 1)))
    assert answer["error"][0] == "digest-wrong"
    assert session("needed") == {"ok": [[0, 6]]}


def test_it_goes_on_where_a_session_ended(start):
    send(staged(start()), [0, 1, 2])
    session = staged(start())
    assert session("needed") == {"ok": [[3, 3]]}


def test_an_offer_is_accepted_and_rejected(start):
    session = staged(start())
    send(session, range(6))
    session("commit")
    session = start()
    (offer,) = session("trial")["ok"]["offers"]
    assert (offer["version"], offer["disk"]) == ("2.0", "disk0")
    build = forgery.parts(NEW)[1]
    assert offer["build"] == updates.sim.build_id(build)[:6].hex()
    assert session("accept", offer["build"])["ok"]["trial"]["state"] == "trying"
    assert power_on(session) == "2.0"
    answer = start()("reject", "no link")["ok"]["trial"]
    assert (answer["state"], answer["why"]) == ("back", "no link")
    assert power_on(session) == "1.0"
    assert staged_refused(start()) == "build-rejected"


def staged_refused(session):
    return session("stage", typed=parcel(0, updates.manifest_of(NEW)))["error"][0]


def test_a_person_goes_back_over_the_line(start):
    session = staged(start())
    send(session, range(6))
    session("commit")
    session("arm")
    power_on(session)
    start()("confirm")
    power_on(session)
    old = updates.sim.build_id(updates.manifest_of(OLD)).hex()
    assert start()("rollback", old[:12])["ok"] == {"version": "1.0", "written": 6}
    assert power_on(session) == "1.0"


def test_code_that_a_person_sends_ends_a_trial(start):
    session = staged(start())
    send(session, range(6))
    session("commit")
    session("arm")
    session = start()
    session("offer", typed=parcel(0, updates.manifest_of(NEW)))
    assert session("blocks", typed=END) == {"ok": 0}
    assert session("trial")["ok"]["trial"]["state"] == "dropped"
