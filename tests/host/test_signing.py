"""A one-time key never signs twice; what is signed is what boards take."""

import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import handmade
import pytest
from pyhsslms import pyhsslms

from fakes import board as sim
from fakes import signer as owners
from lifeboat import boot
from lifeboat import lms as board_lms
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model import formats, image
from lifeboat_host.model.keyset import Parameters, PublicKey
from lifeboat_host.signing import files, keyfile, signers, used
from lifeboat_host.signing.keyfile import PrivateKey
from lifeboat_host.signing.used import Ledger

ROOT = Path(__file__).parents[2]
SMALL = Parameters(n=24, height=5, width=4)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Where the records are: not in the home folder of whoever runs the tests."""
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder / "lifeboat" / "keys"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """What tells this machine from others: a file."""
    path = tmp_path / "machine-id"
    path.write_text("11111111111111111111111111111111\n")
    monkeypatch.setattr(used, "_MACHINE_ID", path)
    return path


@lru_cache(None)
def made(name):
    """A private key of that name, which takes a moment only once."""
    return keyfile.make(Path(name), SMALL)


def new_key(path):
    key = replace(made(path.name), path=path)
    Ledger(key).begin()
    keyfile.save(key)
    return key


@pytest.fixture
def key(tmp_path):
    return new_key(tmp_path / "owner.key")


def paper(path, first=0, end=1024):
    """A key for whoever asks for numbers of one-time keys only."""
    parameters = Parameters(n=24, height=10, width=4)
    public = PublicKey(parameters.codes + bytes(40), parameters)
    return PrivateKey(path, public, first, end, b"", ())


def use(key, times=1):
    return [Ledger(key).reserve(b"message")[0] for _ in range(times)]


def codes(warnings):
    return [warning.code for warning in warnings]


def code_of(call, *args):
    with pytest.raises(LifeboatError) as caught:
        call(*args)
    return caught.value.code


# Every signature takes a one-time key of its own


def test_numbers_rise_and_end(key, lifeboat, tmp_path):
    given, warned = [], []
    for _ in range(32):
        who = signers.KeySigner(key.path)
        signature = who.sign(b"message")
        assert struct.unpack(">I", signature[:4])[0] == who.last.index
        assert board_lms.verify(key.public.raw, signature, b"message")
        given.append(who.last.index)
        warned.append(codes(who.last.warnings))
        assert who.last.left == 31 - who.last.index
    assert given == list(range(32))
    assert warned == [[]] * 15 + [["key-low"]] * 17
    before = Ledger(key).journal.read_bytes()
    assert code_of(signers.KeySigner(key.path).sign, b"message") == "key-exhausted"
    assert Ledger(key).journal.read_bytes() == before
    told = json.loads(lifeboat("key", "show", key.path, "--json")[1])
    assert (told["left"], codes_of(told["warnings"])) == (0, ["key-low"])


def codes_of(warnings):
    return [warning["code"] for warning in warnings]


def test_each_use_stands_in_both_files_before_it_signs(key, state, monkeypatch):
    seen = []

    def sign(public, seed, tree, index, message):
        for path in (Ledger(key).journal, state / f"{key.public.id.hex()}-0"):
            kind, number, _, digest, _ = path.read_text().splitlines()[-1].split(" ")
            seen.append((kind, int(number), digest))
        raise KeyboardInterrupt

    monkeypatch.setattr(signers.lms, "sign", sign)
    with pytest.raises(KeyboardInterrupt):
        signers.KeySigner(key.path).sign(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert seen == [("use", 0, digest)] * 2
    monkeypatch.undo()


class Killed(BaseException):
    """The process ends here: nothing after it is done."""


class Power:
    """Counts writes and syncs, and cuts before, or in the middle of, one of them.

    What was not synced is lost, or is there: `kept` says it.
    """

    def __init__(self, monkeypatch, folders, cut, torn, kept):
        self.left, self.torn, self.kept = cut, torn, kept
        self.names = {str(path) for folder in folders for path in folder.glob("*")}
        self.write, self.fsync = os.write, os.fsync
        self.durable = {}  # file -> bytes that are on the medium
        monkeypatch.setattr(files.os, "write", self.on_write)
        monkeypatch.setattr(files.os, "fsync", self.on_fsync)

    def path(self, handle):
        return os.readlink(f"/proc/self/fd/{handle}")

    def step(self):
        self.left -= 1
        return self.left < 0

    def on_write(self, handle, data):
        self.durable.setdefault(self.path(handle), os.fstat(handle).st_size)
        if self.step():
            if self.torn:
                self.write(handle, data[: len(data) // 2])
            raise Killed
        return self.write(handle, data)

    def on_fsync(self, handle):
        if self.step():
            raise Killed
        self.fsync(handle)
        path = self.path(handle)
        if os.path.isfile(path):
            self.durable[path] = os.fstat(handle).st_size
        else:
            self.names.update(os.path.join(path, name) for name in os.listdir(path))

    def fail(self):
        if not self.kept:
            for path, size in self.durable.items():
                os.truncate(path, size)
                if path not in self.names:
                    os.unlink(path)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_cut_at_any_write_or_sync_no_number_is_given_out_twice(
    tmp_path, state, monkeypatch, torn, kept
):
    key = paper(tmp_path / "owner.key")
    Ledger(key).begin()
    given, cuts = [], 0
    for cut in range(40):
        with monkeypatch.context() as patch:
            power = Power(patch, (tmp_path, state), cut % 8, torn, kept)
            try:
                given += use(key)
            except Killed:
                cuts += 1
            power.fail()
        # Not taken for a backup that came back.
        assert "key-rewound" not in codes(Ledger(key).look().warnings)
        given += use(key)
    assert len(set(given)) == len(given)
    assert cuts == 5 * 4  # two writes and two syncs
    # Each cut costs one number at most.
    assert max(given) < len(given) + cuts


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_cut_while_the_files_are_made_nothing_is_signed_or_all_is_well(
    tmp_path, state, monkeypatch, torn, kept
):
    outcomes = []
    for cut in range(12):
        key = paper(tmp_path / f"{cut}.key")
        key = replace(key, public=PublicKey(key.public.raw[:-1] + bytes([cut]), SMALL))
        given = []
        with monkeypatch.context() as patch:
            power = Power(patch, (tmp_path, state), cut, torn, kept)
            try:
                Ledger(key).begin()
                given += use(key)
            except Killed:
                pass
            power.fail()
        try:
            given += use(key, 2)
        except LifeboatError as error:
            outcomes.append(error.code)
        else:
            outcomes.append(None)
        assert len(set(given)) == len(given)
    # Without a record nothing is signed; with one it does not matter what was cut.
    assert outcomes[0] == "key-elsewhere" and outcomes[-6:] == [None] * 6


@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_an_error_of_any_call_is_told_and_nothing_is_signed(key, monkeypatch, call):
    """A disk that is full, or fails: at the first call, the second, and so on."""
    given = []
    for when in range(12):
        with monkeypatch.context() as patch:
            left, real = [when], getattr(os, call)

            def failing(*args, real=real, left=left):
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(28, "No space left on device")
                return real(*args)

            patch.setattr(files.os, call, failing)
            try:
                given.append(signers.KeySigner(key.path).sign(b"m")[:4])
            except LifeboatError as error:
                assert error.code in ("key-write", "key-read")
                if call != "open":
                    assert "No space left" in error.message
            else:
                assert left[0] >= 0  # no call was left that could fail
    assert len(set(given)) == len(given) and given


def test_a_write_that_takes_half_is_gone_on_with(key, monkeypatch):
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda handle, data: real(handle, data[:7]))
    assert use(key, 3) == [0, 1, 2]
    assert codes(Ledger(key).look().warnings) == []


CHILD = """
import sys
from pathlib import Path
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.signing import used
from lifeboat_host.signing.signers import KeySigner
used._MACHINE_ID = Path(sys.argv[2])
try:
    while True:
        sys.stdout.buffer.write(KeySigner(Path(sys.argv[1])).sign(b"message"))
        sys.stdout.buffer.flush()
except LifeboatError as error:
    sys.exit(error.code)
"""


def children(path, count):
    return [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(used._MACHINE_ID)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "host_tools")},
        )
        for _ in range(count)
    ]


def signatures(data, size=SMALL.signature_size):
    """Whole signatures: what was cut off is none."""
    return [data[at : at + size] for at in range(0, len(data) - size + 1, size)]


def numbers(found):
    return [struct.unpack(">I", signature[:4])[0] for signature in found]


def test_two_processes_never_share_a_number(key):
    running = children(key.path, 2)
    outputs = [process.communicate(timeout=60) for process in running]
    assert [err.strip() for _, err in outputs] == [b"key-exhausted"] * 2
    shares = [numbers(signatures(out)) for out, _ in outputs]
    assert sorted(shares[0] + shares[1]) == list(range(32))
    verified = pyhsslms.LmsPublicKey.deserialize(key.public.raw)
    for signature in signatures(outputs[0][0]) + signatures(outputs[1][0]):
        assert verified.verify(b"message", signature)


def test_killed_at_any_moment_no_number_is_given_out_twice(tmp_path):
    rng = random.Random(4)
    killed_between = 0
    for run in range(9):
        key = new_key(tmp_path / f"{run}.key")
        (process,) = children(key.path, 1)
        assert select.select([process.stdout], [], [], 60)[0]
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        given = signatures(process.communicate(timeout=60)[0])
        assert process.returncode in (-signal.SIGKILL, 1)
        found = numbers(given)
        killed_between += 0 < len(found) < 32
        for _ in range(3):
            if Ledger(key).look().left:
                found += numbers([signers.KeySigner(key.path).sign(b"another message")])
        assert len(set(found)) == len(found)
        for path in (Ledger(key).journal, Ledger(key).record):
            lines = [line for line in path.read_text().splitlines() if line.startswith("use")]
            assert {int(line.split()[1]) for line in lines} >= set(found)
    assert killed_between > 4


def test_somebody_who_keeps_the_lock_is_told_after_a_while(key, monkeypatch):
    monkeypatch.setattr(used, "_LOCK_S", 0.1)
    ledger = Ledger(key)
    with ledger._locked(ledger.journal):
        assert code_of(use, key) == "key-busy"
    assert use(key) == [0]


# What came back from a backup, or from another machine


def test_a_journal_from_a_backup_is_told_and_changes_nothing(key):
    assert use(key, 3) == [0, 1, 2]
    journal = Ledger(key).journal
    kept = journal.read_bytes()
    assert use(key, 4) == [3, 4, 5, 6]
    journal.write_bytes(kept)
    assert codes(Ledger(key).look().warnings) == ["key-rewound"]
    number, standing = Ledger(key).reserve(b"m")
    assert (number, codes(standing.warnings)) == (7, ["key-rewound"])
    assert str(journal) in standing.warnings[0].message
    assert Ledger(key).reserve(b"m")[1].warnings == []


def test_a_key_file_that_came_back_without_its_journal_is_told_and_changes_nothing(key):
    kept = key.path.read_bytes()
    assert use(key, 5) == [0, 1, 2, 3, 4]
    key.path.unlink()
    Ledger(key).journal.unlink()
    key.path.write_bytes(kept)
    key.path.chmod(0o600)
    who = signers.KeySigner(key.path)
    who.sign(b"m")
    assert (who.last.index, codes(who.last.warnings)) == (5, ["key-rewound"])


def test_a_record_from_a_backup_is_told_and_changes_nothing(key):
    record = Ledger(key).record
    kept = record.read_bytes()
    assert use(key, 5) == [0, 1, 2, 3, 4]
    record.write_bytes(kept)
    number, standing = Ledger(key).reserve(b"m")
    assert (number, codes(standing.warnings)) == (5, ["key-rewound"])
    assert str(record) in standing.warnings[0].message


def test_a_copy_on_the_same_machine_shares_the_record(key, tmp_path):
    copy = replace(key, path=tmp_path / "copy.key")
    given = []
    for _ in range(4):
        given += use(key) + use(copy)
    assert given == list(range(8))


def no_record(key, machine):
    Ledger(key).record.unlink()


def empty_record(key, machine):
    Ledger(key).record.write_bytes(b"")


def record_of_another_machine(key, machine):
    machine.write_text("22222222222222222222222222222222\n")


@pytest.mark.parametrize("how", [no_record, empty_record, record_of_another_machine])
@pytest.mark.parametrize("before", [0, 3])
def test_without_the_record_of_this_machine_nothing_is_signed(
    key, machine, lifeboat, tmp_path, how, before
):
    use(key, before)
    how(key, machine)
    journal = Ledger(key).journal
    lines = journal.read_bytes() if journal.exists() else None
    assert code_of(signers.KeySigner(key.path).sign, b"m") == "key-elsewhere"
    code, out, err = lifeboat("key", "split", key.path, tmp_path / "new", "--count", 2)
    assert code == 1 and "lifeboat key split" in err and "lifeboat key move" in err
    assert not (tmp_path / "new").exists()
    told = json.loads(lifeboat("key", "show", key.path, "--json")[1])
    assert (told["left"], told["elsewhere"]["code"]) == (None, "key-elsewhere")
    assert (journal.read_bytes() if journal.exists() else None) == lines
    # A person knows better.
    code, out, _ = lifeboat("key", "move", key.path, "--skip", 5, "--yes", "--json")
    assert (code, json.loads(out)["next"]) == (0, before + 5)
    assert use(key) == [before + 5]


def test_a_machine_without_an_id_can_sign(key, machine):
    machine.unlink()
    assert use(key) == [0]


def test_moving_asks_and_says_what_it_means(key, lifeboat, monkeypatch):
    use(key, 3)
    Ledger(key).record.unlink()
    code, _, err = lifeboat("key", "move", key.path, "--skip", 2)
    assert code == 1 and "no terminal" in err and not Ledger(key).record.exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, expected in (("no\n", 1), ("yes\n", 0)):
        monkeypatch.setattr("sys.stdin.readline", lambda answer=answer: answer, raising=False)
        code, _, err = lifeboat("key", "move", key.path, "--skip", 2, "--count", 10)
        assert code == expected
        assert "one-time keys 5 to 14" in err and "no other machine" in err
    given = []
    with pytest.raises(LifeboatError):
        while True:
            given += use(key)
    assert given == list(range(5, 15))


@pytest.mark.parametrize("more", [("--skip", 32), ("--skip", 29), ("--skip", 0, "--count", 0)])
def test_a_move_that_leaves_nothing_is_refused(key, lifeboat, more):
    use(key, 3)
    lines = Ledger(key).record.read_bytes()
    code, out, _ = lifeboat("key", "move", key.path, *more, "--yes", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "key-count")
    assert Ledger(key).record.read_bytes() == lines


def test_a_key_that_was_moved_away_does_not_sign_here_again(key, machine, state, monkeypatch):
    """On a stick, with its journal: there and back."""
    use(key, 2)
    monkeypatch.setenv("XDG_STATE_HOME", str(state / "there"))
    machine.write_text("22222222222222222222222222222222\n")
    assert code_of(use, key) == "key-elsewhere"
    Ledger(key).move(0, None)
    assert use(key, 3) == [2, 3, 4]
    monkeypatch.setenv("XDG_STATE_HOME", str(state.parents[1]))
    machine.write_text("11111111111111111111111111111111\n")
    assert code_of(use, key) == "key-elsewhere"
    Ledger(key).move(0, None)
    assert use(key) == [5]


# Lines that can't be read


def test_a_torn_line_counts_as_one_that_was_used(key):
    use(key, 3)
    for path in (Ledger(key).journal, Ledger(key).record):
        path.write_bytes(path.read_bytes()[:-9])
    assert codes(Ledger(key).look().warnings) == ["key-torn", "key-torn"]
    number, standing = Ledger(key).reserve(b"m")
    assert number == 3 and codes(standing.warnings) == ["key-torn", "key-torn"]
    assert Ledger(key).reserve(b"m")[1].warnings == []
    assert use(key) == [5]


def test_whatever_is_at_the_end_of_the_files_no_number_comes_twice(tmp_path):
    rng = random.Random(9)
    for run in range(25):
        key = paper(tmp_path / f"{run}.key")
        key = replace(key, public=PublicKey(key.public.raw[:-1] + bytes([run]), SMALL))
        Ledger(key).begin()
        given = []
        for _ in range(6):
            given += use(key, rng.randrange(1, 4))
            path = rng.choice((Ledger(key).journal, Ledger(key).record))
            tail = rng.choice(
                (b"\0" * 40, b"\xff", b"use 1", b"\n", b"use 0 x y 00000000\n", b"\r\n")
            )
            damaged = path.read_bytes()
            if rng.random() < 0.5:
                damaged = damaged[: -rng.randrange(1, 90)]
            path.write_bytes(damaged + tail)
        given += use(key)
        assert len(set(given)) == len(given), run


def test_a_journal_of_another_key_is_refused(key, tmp_path):
    other = new_key(tmp_path / "other.key")
    use(other)
    Ledger(other).cut(4)
    Ledger(key).journal.write_bytes(Ledger(other).journal.read_bytes())
    assert code_of(use, key) == "key-journal"
    Ledger(key).journal.write_text(used._sealed("more 1 2 3") + "\n")
    assert code_of(use, key) == "key-journal"
    Ledger(key).journal.write_bytes(b"x" * ((16 << 20) + 1))
    assert code_of(use, key) == "key-read"


def test_files_that_are_links_are_not_written(key, tmp_path):
    (tmp_path / "target").write_bytes(b"")
    Ledger(key).journal.symlink_to(tmp_path / "target")
    assert code_of(use, key) == "key-write"
    assert (tmp_path / "target").read_bytes() == b""


def test_a_key_behind_a_link_has_its_journal_beside_the_file(key, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.key"
    link.symlink_to(key.path)
    signers.KeySigner(link).sign(b"m")
    assert [p.name for p in link.parent.iterdir()] == ["link.key"]
    assert Ledger(key).journal.exists()


# Split


def rest(key):
    """All numbers that a key file still gives out."""
    found = []
    while True:
        try:
            found += use(key)
        except LifeboatError as error:
            assert error.code == "key-exhausted"
            return found


def test_split_keys_have_nothing_in_common_and_nothing_is_lost(key, lifeboat, tmp_path):
    given = use(key, 2)
    parts = [key]
    for name, source, count in (("a", 0, 10), ("b", 1, 4), ("c", 0, 5)):
        path = tmp_path / f"{name}.key"
        code, out, _ = lifeboat(
            "key", "split", parts[source].path, path, "--count", count, "--json"
        )
        told = json.loads(out)
        assert code == 0 and told["given"][1] - told["given"][0] == count
        part = keyfile.load(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert (part.public, [part.first, part.end]) == (key.public, told["given"])
        assert code_of(use, part) == "key-elsewhere"
        assert lifeboat("key", "move", path, "--skip", 0, "--yes")[0] == 0
        parts.append(part)
        given += use(part)
    for part in parts:
        who = signers.KeySigner(part.path)
        assert board_lms.verify(key.public.raw, who.sign(b"m"), b"m")
        given.append(who.last.index)
    for part in parts:
        given += rest(part)
    assert sorted(given) == list(range(32))


def test_a_split_outlives_a_journal_from_a_backup(key, lifeboat, tmp_path):
    use(key)
    kept = Ledger(key).journal.read_bytes()
    assert lifeboat("key", "split", key.path, tmp_path / "new", "--count", 30)[0] == 0
    Ledger(key).journal.write_bytes(kept)
    assert codes(Ledger(key).look().warnings) == ["key-rewound", "key-low"]
    assert rest(key) == [1]


@pytest.mark.parametrize("count", [0, 32, 33, 1 << 40])
def test_a_split_leaves_at_least_one(key, lifeboat, tmp_path, count):
    code, out, _ = lifeboat("key", "split", key.path, tmp_path / "n", "--count", count, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "key-count")
    assert not (tmp_path / "n").exists() and rest(key) == list(range(32))


def test_a_split_that_can_not_be_written_takes_nothing_away(key, lifeboat, tmp_path):
    for name, code in (("owner.key", "key-exists"), ("none/new", "key-write")):
        result = lifeboat("key", "split", key.path, tmp_path / name, "--count", 3, "--json")
        assert json.loads(result[1])["error"]["code"] == code
    assert rest(key) == list(range(32))


def test_a_split_that_is_cut_short_gives_nothing_to_both(key, lifeboat, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(keyfile.files, "create", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            lifeboat("key", "split", key.path, tmp_path / "new", "--count", 3)
    assert rest(key) == list(range(29))


# Damaged key files


def damaged_leaf(fields):
    fields["leaves"] = "AAAA" + fields["leaves"][4:]


def damaged_last_leaf(fields):
    fields["leaves"] = fields["leaves"][:-4] + "AAAA"


def another_seed(fields):
    fields["seed"] = bytes(24).hex()


def another_root(fields):
    fields["public"] = fields["public"][:-2] + ("00" if fields["public"][-2:] != "00" else "01")


def another_tree(fields):
    fields["public"] = fields["public"][:16] + bytes(16).hex() + fields["public"][48:]


DAMAGES = [damaged_leaf, damaged_last_leaf, another_seed, another_root, another_tree]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_key_file_signs_nothing_and_uses_nothing_up(key, damage):
    fields = json.loads(key.path.read_text())
    damage(fields)
    key.path.write_text(json.dumps(fields))
    assert code_of(signers.KeySigner(key.path).sign, b"m") in ("key-damaged", "key-elsewhere")
    assert Ledger(key).look().left == 32


def test_a_signature_that_went_wrong_is_not_given_out(key, monkeypatch):
    real = signers.lms.sign
    monkeypatch.setattr(signers.lms, "sign", lambda *a: real(*a)[:-1] + b"\0")
    who = signers.KeySigner(key.path)
    assert code_of(who.sign, b"m") == "key-damaged"
    assert who.last is None and Ledger(key).look().next == 1


# Parameter sets


@pytest.mark.parametrize(
    "hash_bits, width", [(192, w) for w in (1, 2, 4, 8)] + [(256, w) for w in (2, 4, 8)]
)
def test_each_parameter_set_signs_and_two_others_verify(lifeboat, tmp_path, hash_bits, width):
    path = tmp_path / "k"
    options = ("--height", 5, "--hash", hash_bits, "--width", width)
    assert lifeboat("key", "new", path, *options)[0] == 0
    who = signers.KeySigner(path)
    for message in (b"", bytes(1000)):
        signature = who.sign(message)
        assert len(signature) == who.public.parameters.signature_size
        theirs = pyhsslms.LmsPublicKey.deserialize(who.public.raw)
        assert theirs.verify(message, signature)
        assert board_lms.verify(who.public.raw, signature, message)
        assert not board_lms.verify(who.public.raw, signature, message + b"\0")


# Images

FLASH = ("--product", "prod", "--flash-size", 26 * 4096, "--block-size", 4096)


@pytest.fixture
def unsigned(lifeboat, tmp_path):
    source, path = tmp_path / "os.bin", tmp_path / "code.img"
    source.write_bytes(random.Random(1).randbytes(9000))
    assert lifeboat("image", "build", "-o", path, "--version", "1", *FLASH, f"os={source}")[0] == 0
    return path


def run_json(lifeboat, *arguments):
    code, out, _ = lifeboat(*arguments, "--json")
    return code, json.loads(out)


def test_an_image_is_signed_as_the_page_says(key, lifeboat, unsigned, tmp_path):
    before = unsigned.read_bytes()
    code, told = run_json(lifeboat, "image", "sign", unsigned, "--key", key.path)
    assert code == 0
    assert told["signing"] == {
        "key": key.public.id.hex(), "one_time_key": 0, "left": 31, "warnings": [],
    }  # fmt: skip
    data = unsigned.read_bytes()
    assert data[:-4096] == before[:-4096]
    (size,) = struct.unpack_from("<I", data, len(data) - 4096 + 12)
    raw = data[-4096:][:size]
    signed, rest_of_it = raw[: -4 - 8 - 1380], raw[-4 - 8 - 1380 : -4]
    assert rest_of_it[:8] == key.public.id
    assert board_lms.verify(key.public.raw, rest_of_it[8:], signed)
    # The same bytes as by hand.
    code_bytes = before[: 3 * 4096]
    expected = handmade.manifest(
        [code_bytes[at : at + 4096] for at in range(0, len(code_bytes), 4096)],
        segments=((b"os", 1, 0, 9000),), version=b"1", memory_blocks=8, signature=rest_of_it,
    )  # fmt: skip
    assert raw == expected and data[-4096 + size :] == b"\xff" * (4096 - size)
    with image.Image(unsigned) as file:
        assert file.manifest().build_id.hex() == told["build"]


def test_signing_again_replaces_the_signature(key, lifeboat, unsigned, tmp_path):
    other = new_key(tmp_path / "other.key")
    out = tmp_path / "signed.img"
    original = unsigned.read_bytes()
    for who, number in ((key, 0), (key, 1), (other, 0)):
        code, told = run_json(lifeboat, "image", "sign", unsigned, "--key", who.path, "-o", out)
        assert code == 0 and told["signing"]["one_time_key"] == number
        assert unsigned.read_bytes() == original
    for _ in range(2):
        assert lifeboat("image", "sign", out, "--key", other.path)[0] == 0
    code, told = run_json(lifeboat, "image", "inspect", out)
    assert told["signature"]["key"] == other.public.id.hex()
    assert told["signature"]["one_time_key"] == 2 and told["signature"]["size"] == 8 + 1380
    assert told["build"] == run_json(lifeboat, "image", "inspect", unsigned)[1]["build"]
    assert f"by key {other.public.id.hex()}" in lifeboat("image", "inspect", out)[1]
    assert "one-time key 2" in lifeboat("image", "inspect", out)[1]


def test_build_signs_and_verify_says_by_whom(key, lifeboat, unsigned, tmp_path):
    out, public, other = tmp_path / "b.img", tmp_path / "owner.pub", tmp_path / "other.pub"
    lifeboat("key", "show", key.path, "--public", public)
    other.write_bytes(owners.key(2).public)
    source = f"os={tmp_path / 'os.bin'}"
    arguments = ("--version", "1", "--security-counter", 3, *FLASH, source)
    code, told = run_json(lifeboat, "image", "build", "-o", out, "--sign", key.path, *arguments)
    assert code == 0 and told["signing"]["left"] == 31 and told["security_counter"] == 3
    verdicts = {}
    for name, options in {
        "own": (public,), "both": (other, public), "other": (other,), "private": (key.path,),
    }.items():  # fmt: skip
        named = [word for path in options for word in ("--public", path)]
        code, told = run_json(lifeboat, "image", "verify", out, *named)
        verdicts[name] = (code, told["signature"], told["ok"])
    assert verdicts == {
        "own": (0, "ok", True), "both": (0, "ok", True), "private": (0, "ok", True),
        "other": (3, "key-unknown", False),
    }  # fmt: skip
    assert run_json(lifeboat, "image", "verify", unsigned, "--public", public)[1]["signature"] == (
        "signature-none"
    )
    assert lifeboat("image", "verify", unsigned, "--public", public)[0] == 3
    code, told = run_json(lifeboat, "image", "verify", out)
    assert (code, told["signature"], told["ok"]) == (0, None, True)
    code, text, _ = lifeboat("image", "verify", out, "--public", other)
    assert code == 3 and "none of those that were named" in text


def test_a_key_set_verifies_by_its_keys_with_the_role_code(key, lifeboat, unsigned, tmp_path):
    lifeboat("image", "sign", unsigned, "--key", key.path)
    sets = tmp_path / "set"
    for roles, expected in (("code", 0), ("keys,unlock", 3)):
        other = tmp_path / "other.pub"
        other.write_bytes(owners.key(2).public)
        lifeboat("key", "set", "-o", sets, "--serial", 123, f"{key.path}:{roles}", f"{other}:code")
        assert lifeboat("image", "verify", unsigned, "--public", sets)[0] == expected


def test_no_changed_byte_of_a_signed_manifest_verifies(key, lifeboat, unsigned, tmp_path):
    lifeboat("image", "sign", unsigned, "--key", key.path)
    data = unsigned.read_bytes()
    (size,) = struct.unpack_from("<I", data, len(data) - 4096 + 12)
    rng = random.Random(5)
    places = [*range(0, 128, 9), *(rng.randrange(size) for _ in range(9)), size - 1, size - 5]
    for sealed in (False, True):  # somebody who makes the CRC right again
        for place in places:
            raw = bytearray(data[-4096:][:size])
            raw[place] ^= 1 << rng.randrange(8)
            if sealed:
                raw = handmade.sealed(bytes(raw[:-4]))
                if raw == data[-4096:][:size]:
                    continue
            unsigned.write_bytes(data[:-4096] + bytes(raw).ljust(4096, b"\xff"))
            options = ("--public", key.path, "--block-size", 4096)
            assert lifeboat("image", "verify", unsigned, *options)[0] == 3, (place, sealed)


def test_what_can_not_be_written_is_not_signed(key, lifeboat, unsigned, tmp_path):
    for output in (tmp_path / "none" / "out.img", unsigned / "out.img"):
        source = f"os={tmp_path / 'os.bin'}"
        build = ("image", "build", "--version", "1", *FLASH, source, "--sign", key.path)
        for arguments in (("image", "sign", unsigned, "--key", key.path), build):
            code, told = run_json(lifeboat, *arguments, "-o", output)
            assert (code, told["error"]["code"]) == (1, "image-write")
    assert Ledger(key).look().left == 32


def test_a_damaged_block_is_damage_whoever_signed(key, lifeboat, unsigned):
    lifeboat("image", "sign", unsigned, "--key", key.path)
    data = bytearray(unsigned.read_bytes())
    data[5000] ^= 1
    unsigned.write_bytes(data)
    code, told = run_json(lifeboat, "image", "verify", unsigned, "--public", key.path)
    assert (code, told["signature"], told["ok"]) == (3, "ok", False)
    code, told = run_json(lifeboat, "image", "sign", unsigned, "--key", key.path)
    assert (code, told["error"]["code"]) == (1, "image-damaged")
    assert Ledger(key).look().next == 1


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100, 8 + 1380 - 1, 8 + 1380 + 4])
def test_a_signature_of_a_wrong_size_is_shown_as_that(key, lifeboat, tmp_path, size):
    path = tmp_path / "odd.img"
    signature = (key.public.id + bytes(2000))[:size]
    raw = handmade.manifest(signature=signature)
    path.write_bytes(b"".join(handmade.BLOCKS) + raw.ljust(4096, b"\xff"))
    code, told = run_json(lifeboat, "image", "inspect", path)
    assert code == 0 and told["signature"]["size"] == size
    assert told["signature"]["parameters"] is None
    assert (told["signature"]["key"] is None) == (size < 8)
    assert f"{size} bytes are no LMS signature" in " ".join(
        lifeboat("image", "inspect", path)[1].split()
    )
    code, told = run_json(lifeboat, "image", "verify", path, "--public", key.path)
    assert (code, told["signature"]) == (3, "signature-bad" if size >= 8 else "key-unknown")
    assert lifeboat("image", "sign", path, "--key", key.path)[0] == 0
    assert lifeboat("image", "verify", path, "--public", key.path)[0] == 0


def test_a_manifest_that_grows_over_a_block_takes_one_more(key, lifeboat, tmp_path):
    """80 blocks: 3060 bytes of manifest, and 1388 of signature."""
    source, path = tmp_path / "os.bin", tmp_path / "code.img"
    content = random.Random(2).randbytes(79 * 4096) + b"\xff" * 4096
    source.write_bytes(content)
    for blocks, expected in ((90, 0), (89, "image-full")):
        flash = ("--product", "p", "--flash-size", blocks * 4096, "--block-size", 4096)
        arguments = ("-o", path, "--version", "1", *flash, f"os={source}")
        assert lifeboat("image", "build", *arguments)[0] == 0
        before = path.read_bytes()
        code, told = run_json(lifeboat, "image", "sign", path, "--key", key.path)
        built = run_json(lifeboat, "image", "build", *arguments, "--sign", key.path)[1]
        if expected:
            assert told["error"]["code"] == built["error"]["code"] == expected
            assert path.read_bytes() == before
            continue
        assert built["manifest_blocks"] == 2 and built["build"] == told["build"]
        assert lifeboat("image", "verify", path, "--public", key.path)[0] == 0
        data = path.read_bytes()
        assert data[: 80 * 4096] == content and data[81 * 4096 : 89 * 4096] == b"\xff" * 8 * 4096
        raw = data[-4096:] + data[80 * 4096 : 81 * 4096]
        assert board_lms.verify(
            key.public.raw,
            formats.parse_manifest(raw).signature[8:],
            formats.parse_manifest(raw).signed_bytes,
        )
    assert Ledger(key).look().next == 2  # what did not fit cost nothing


def test_a_manifest_that_shrinks_gives_its_block_back(key, lifeboat, tmp_path):
    """60 blocks: 2340 bytes of manifest, and 1388 of signature, or 4468."""
    source, path, large = tmp_path / "os.bin", tmp_path / "code.img", tmp_path / "large.key"
    source.write_bytes(random.Random(2).randbytes(60 * 4096))
    lifeboat("key", "new", large, "--height", 5, "--hash", 256, "--width", 2)
    flash = ("--product", "p", "--flash-size", 80 * 4096, "--block-size", 4096)
    lifeboat("image", "build", "-o", path, "--version", "1", *flash, f"os={source}")
    with image.Image(path) as file:
        assert image.sign(file, path, signers.KeySigner(key.path)).manifest_blocks == 1
    once = path.read_bytes()
    for _ in range(2):
        with image.Image(path) as file:
            assert image.sign(file, path, signers.KeySigner(large)).manifest_blocks == 2
    assert lifeboat("image", "verify", path, "--public", large)[0] == 0
    with image.Image(path) as file:
        assert image.sign(file, path, signers.KeySigner(key.path)).manifest_blocks == 1
    assert lifeboat("image", "verify", path, "--public", key.path)[0] == 0
    assert path.read_bytes()[:-4096] == once[:-4096]


def test_a_block_that_holds_something_is_not_taken_for_the_manifest(key, lifeboat, tmp_path):
    test_a_manifest_that_grows_over_a_block_takes_one_more(key, lifeboat, tmp_path)
    path = tmp_path / "dump.img"
    source = tmp_path / "os.bin"
    flash = ("--product", "p", "--flash-size", 90 * 4096, "--block-size", 4096)
    lifeboat("image", "build", "-o", path, "--version", "1", *flash, f"os={source}")
    data = bytearray(path.read_bytes())
    data[80 * 4096 + 100] = 0  # somebody's, who is not lifeboat
    path.write_bytes(data)
    code, told = run_json(lifeboat, "image", "sign", path, "--key", key.path)
    assert (code, told["error"]["code"]) == (1, "image-full")
    assert path.read_bytes() == data


def test_a_memory_in_a_dump_stays(key, lifeboat, unsigned):
    data = bytearray(unsigned.read_bytes())
    data[20 * 4096 : 20 * 4096 + 4] = b"mine"
    unsigned.write_bytes(data)
    assert lifeboat("image", "sign", unsigned, "--key", key.path)[0] == 0
    assert unsigned.read_bytes()[: 25 * 4096] == data[: 25 * 4096]


# Images that bring keys


def brought(path):
    with image.Image(path) as file:
        return file.manifest().extensions


def test_an_image_brings_a_key_set(key, lifeboat, unsigned, tmp_path):
    one, two, sets = tmp_path / "1.keys", tmp_path / "2.keys", {}
    other = tmp_path / "other.pub"
    other.write_bytes(owners.key(2).public)
    for serial, path in ((1, one), (2, two)):
        named = (f"{key.path}:code,keys", f"{other}:unlock")[:serial]
        lifeboat("key", "set", "-o", path, "--serial", serial, *named)
        sets[serial] = path.read_bytes()
    assert sets[2] == owners.key_set(2, (5, key.public.raw), (2, owners.key(2)))
    source = f"os={tmp_path / 'os.bin'}"
    arguments = ("image", "build", "-o", unsigned, "--version", "1", *FLASH, source)
    assert lifeboat(*arguments, "--keys", one)[0] == 0
    assert brought(unsigned) == ((1, sets[1]),)
    assert lifeboat("image", "sign", unsigned, "--key", key.path)[0] == 0
    assert brought(unsigned) == ((1, sets[1]),)
    assert lifeboat("image", "sign", unsigned, "--key", key.path, "--keys", two)[0] == 0
    assert brought(unsigned) == ((1, sets[2]),)
    assert lifeboat("image", "verify", unsigned, "--public", two)[0] == 0
    told = run_json(lifeboat, "image", "inspect", unsigned)[1]["key_set"]
    assert told["serial"] == 2
    assert [(one["id"], one["roles"]) for one in told["keys"]] == [
        (key.public.id.hex(), ["code", "keys"]), (owners.key(2).id.hex(), ["unlock"]),
    ]  # fmt: skip
    assert "brings key set 2" in " ".join(lifeboat("image", "inspect", unsigned)[1].split())


def test_other_extensions_stay_as_they_are(key, lifeboat, tmp_path):
    path, keys = tmp_path / "x.img", tmp_path / "set"
    lifeboat("key", "set", "-o", keys, "--serial", 2, f"{key.path}:code")
    strange = struct.pack("<HHI", 9, 6, 5) + b"abcde\0\0\0"
    own = struct.pack("<HHI", 1, 0, 3) + b"old\0"
    raw = handmade.manifest(extensions=own + strange + own)
    path.write_bytes(b"".join(handmade.BLOCKS) + raw.ljust(4096, b"\xff"))
    assert lifeboat("image", "sign", path, "--key", key.path, "--keys", keys)[0] == 0
    signed = path.read_bytes()[-4096:]
    added = struct.pack("<HHI", 1, 0, 66) + keys.read_bytes() + bytes(2)
    at = len(raw) - 4 - len(own + strange + own)
    assert signed[at : at + len(strange + added)] == strange + added
    assert lifeboat("image", "verify", path, "--public", key.path)[0] == 0


def test_a_set_without_its_signer_is_refused(key, lifeboat, unsigned, tmp_path):
    other = new_key(tmp_path / "other.key")
    keys = tmp_path / "set"
    for named in (f"{other.path}:code,keys",), (f"{key.path}:keys", f"{other.path}:code"):
        lifeboat("key", "set", "-o", keys, "--serial", 2, *named)
        sign = ("image", "sign", unsigned, "--key", key.path, "--keys", keys)
        assert run_json(lifeboat, *sign)[1]["error"]["code"] == "keyset-signer"
    assert Ledger(key).look().left == 32
    for content in (b"", b"x", keys.read_bytes() + b"\0", key.public.raw):
        keys.write_bytes(content)
        assert run_json(lifeboat, *sign)[1]["error"]["code"] == "keyset-form"


def test_manifests_of_other_versions(key, lifeboat, tmp_path):
    path = tmp_path / "x.img"
    blocks = b"".join(handmade.BLOCKS)
    for minor, expected in ((0, 2), (1, 2), (3, 3)):
        raw = handmade.manifest(minor=minor)
        path.write_bytes(blocks + raw.ljust(4096, b"\xff"))
        assert lifeboat("image", "sign", path, "--key", key.path)[0] == 0
        assert path.read_bytes()[len(blocks) + 9] == expected
        assert lifeboat("image", "verify", path, "--public", key.path)[0] == 0
    raw = handmade.manifest(patch=[(100, b"\1")])  # ro_compat
    path.write_bytes(blocks + raw.ljust(4096, b"\xff"))
    code, told = run_json(lifeboat, "image", "sign", path, "--key", key.path)
    assert (code, told["error"]["code"]) == (1, "manifest-version")


def test_what_has_no_room_in_a_manifest_is_refused(key, lifeboat, tmp_path):
    path = tmp_path / "x.img"
    full = struct.pack("<HHI", 9, 0, 6900) + bytes(6900)
    raw = handmade.manifest([bytes(16384)], ((b"os", 1, 0, 9),), block_size=16384, extensions=full)
    path.write_bytes(bytes(16384) + raw.ljust(16384, b"\xff"))
    code, told = run_json(lifeboat, "image", "sign", path, "--key", key.path)
    assert (code, told["error"]["code"]) == (1, "manifest-size")
    assert Ledger(key).look().left == 32


# Boards


@pytest.fixture
def owned(key, lifeboat, tmp_path):
    """A key set, and an image for a SimBoard that its key signed: (set, image)."""
    keys, path = tmp_path / "set", tmp_path / "board.img"
    lifeboat("key", "set", "-o", keys, "--serial", 1, f"{key.path}:code,keys")
    path.write_bytes(bytes(sim.image(seed=1, version="1.0")))
    options = ("--key", key.path)
    assert lifeboat("image", "sign", path, *options)[0] == 0
    return keys.read_bytes(), path.read_bytes()


def test_a_board_runs_what_the_tool_signed_and_nothing_else(owned):
    keys, content = owned
    for code, keys_there, verdict in (
        (content, keys, "RUN"),
        (bytes(sim.image(seed=1, version="1.0")), keys, "RESCUE"),
        (content, owners.key_set(1, (1, owners.key(1))), "RESCUE"),
    ):
        board = sim.SimBoard(bytearray(code), members=1)
        board.UNSIGNED, board.KEYS = False, keys_there
        assert boot.power_on(board).verdict == verdict


def test_provision_signs_a_copy(connected, key, owned, lifeboat, tmp_path):
    keys, content = owned
    unsigned = bytes(sim.image(seed=2, version="2.0"))
    board = sim.SimBoard(bytearray(content), members=1)
    board.UNSIGNED, board.KEYS = False, keys
    assert boot.power_on(board).verdict == "RUN"
    run = connected(board)
    code, told = run("flash", "--yes", "--sign", key.path, code=unsigned)
    assert code == 0, told
    assert (told["signing"]["one_time_key"], told["report"]["verdict"]) == (1, "RUN")
    assert bytes(board.nor.data)[: -sim.ERASE] == unsigned[: -sim.ERASE]
    raw = formats.parse_manifest(bytes(board.nor.data[-sim.ERASE :]))
    assert raw.key_id == key.public.id
    assert (tmp_path / "0.img").read_bytes() == unsigned  # what the fixture made of it
    code, told = run("provision", "--yes", "--sign", key.path, code=unsigned)
    assert (code, told["signing"]["one_time_key"]) == (0, 2)
    code, told = run("flash", "--yes", "--sign", tmp_path / "none", code=unsigned)
    assert (code, told["error"]["code"]) == (1, "key-read")


def test_without_a_board_no_one_time_key_is_used(key, lifeboat, owned, tmp_path):
    path = tmp_path / "board.img"
    for name in ("flash", "provision"):
        arguments = ("--image", path, "--port", tmp_path / "no-port", "--sign", key.path)
        assert lifeboat(name, *arguments)[0] == 1
    assert Ledger(key).look().next == 1


# Somebody else signs


@pytest.fixture
def external(tmp_path):
    """(make a command of this Python code, its public key): `sign(data)` is there already."""
    public = tmp_path / "hsm.pub"
    public.write_bytes(owners.key(1).public)

    def command(code):
        path = tmp_path / "command.py"
        path.write_text(
            f"import sys, time, os\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
            f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
            "import cpython_floor\ncpython_floor.install()\n"
            "def sign(data, name=1):\n"
            "    from fakes import signer\n"
            "    return signer.key(name).sign(data, leaf=9)\n"
            "out = sys.stdout.buffer\n" + code
        )
        return f"{sys.executable} {path}"

    return command, public


def test_a_command_signs(external, lifeboat, unsigned, tmp_path):
    command, public = external
    for code in (
        "out.write(sign(sys.stdin.buffer.read()))",
        "sys.stderr.write('touch'); out.write(bytes(4) + sign(sys.stdin.buffer.read()))",
        "assert sys.argv[1:] == ['two words']; out.write(sign(sys.stdin.buffer.read()))",
    ):
        words = " 'two words'" if "argv" in code else ""
        options = ("--signer", command(code) + words, "--public", public)
        code, told = run_json(lifeboat, "image", "sign", unsigned, *options)
        assert code == 0, told
        assert told["signing"] == {
            "key": owners.key(1).id.hex(), "one_time_key": 9, "left": None, "warnings": [],
        }  # fmt: skip
        assert lifeboat("image", "verify", unsigned, "--public", public)[0] == 0
    source = f"os={tmp_path / 'os.bin'}"
    arguments = ("image", "build", "-o", tmp_path / "new.img", "--version", "1", *FLASH, source)
    assert lifeboat(*arguments, *options)[0] == 0
    assert lifeboat("image", "verify", tmp_path / "new.img", "--public", public)[0] == 0


BAD_COMMANDS = {
    "sys.exit(3)": "signer-failed",
    "sys.stderr.write('\\x1b[2Jno\\n\\x07token'); sys.exit(1)": "signer-failed",
    "os.kill(os.getpid(), 9)": "signer-failed",
    "pass": "signer-signature",
    "out.write(b'x' * 1380)": "signer-signature",
    "out.write(sign(b'other bytes'))": "signer-signature",
    "out.write(sign(sys.stdin.buffer.read(), name=2))": "signer-signature",
    "out.write(sign(sys.stdin.buffer.read()) + b'\\n')": "signer-signature",
    "out.write(b'x' * 8209)": "signer-output",
    "while True: out.write(b'x' * 4096)": "signer-output",
    "time.sleep(60)": "signer-timeout",
    "out.close(); os.close(1); os.close(2); time.sleep(60)": "signer-timeout",
    "while time: sys.stderr.write('still busy ' * 400)": "signer-timeout",
    "os.fork() and os._exit(0); time.sleep(3)": "signer-timeout",
}  # fmt: skip


@pytest.mark.parametrize("code", BAD_COMMANDS)
def test_a_command_that_does_something_else(external, lifeboat, unsigned, monkeypatch, code):
    monkeypatch.setattr(signers, "_TIMEOUT_S", 0.5 if "time" in BAD_COMMANDS[code] else 20)
    command, public = external
    before = unsigned.read_bytes()
    options = ("--signer", command(code), "--public", public)
    began = time.monotonic()
    exit_code, told = run_json(lifeboat, "image", "sign", unsigned, *options)
    assert time.monotonic() - began < 50  # of the 60 s that some would take
    assert (exit_code, told["error"]["code"]) == (1, BAD_COMMANDS[code])
    assert unsigned.read_bytes() == before
    said = told["error"]["message"]
    assert len(said) < 5000 and "\x1b" not in said and "\x07" not in said and "\n" not in said
    if "token" in code:
        assert said.endswith("no \ufffdtoken")


@pytest.mark.parametrize(
    "command, code",
    [
        ("/no/such/command", "signer-start"),
        ("/etc/hostname", "signer-start"),
        ("'unfinished", "signer-command"),
        ("", "signer-command"),
        ("   ", "signer-command"),
        ("a\\\0b", "signer-start"),
    ],
)
def test_what_is_no_command(external, lifeboat, unsigned, command, code):
    options = ("--signer", command, "--public", external[1])
    assert run_json(lifeboat, "image", "sign", unsigned, *options)[1]["error"]["code"] == code


def test_no_shell_reads_the_command(external, lifeboat, unsigned, tmp_path):
    command, public = external
    options = ("--signer", command("pass") + f" ; touch {tmp_path}/ran", "--public", public)
    lifeboat("image", "sign", unsigned, *options)
    assert not (tmp_path / "ran").exists()


def test_signatures_that_no_manifest_holds_are_refused_before_anybody_signs(
    external, lifeboat, unsigned, tmp_path
):
    public = tmp_path / "w1.pub"
    public.write_bytes(struct.pack(">II", 5, 1) + bytes(48))
    options = ("--signer", external[0]("pass"), "--public", public)
    code, told = run_json(lifeboat, "image", "sign", unsigned, *options)
    assert (code, told["error"]["code"]) == (1, "key-large")


@pytest.mark.parametrize("name", ["image sign", "image build", "flash", "provision"])
def test_who_signs_is_said_once(lifeboat, unsigned, key, name):
    own = "--key" if name == "image sign" else "--sign"
    given = {
        "image sign": (unsigned,),
        "image build": ("-o", unsigned, "--version", "1", f"os={unsigned}"),
    }.get(name, ("--image", unsigned))
    for options in (
        ("--signer", "x"), ("--public", key.path), (own, key.path, "--public", key.path),
        (own, key.path, "--signer", "x", "--public", key.path),
    ):  # fmt: skip
        code, _, err = lifeboat(*name.split(), *given, *options)
        assert code == 2 and "usage:" in err, options
    if name == "image sign":
        assert lifeboat("image", "sign", unsigned)[0] == 2


def test_a_public_key_can_not_sign(external, lifeboat, unsigned):
    code, told = run_json(lifeboat, "image", "sign", unsigned, "--key", external[1])
    assert (code, told["error"]["code"]) == (1, "key-form")


def test_warnings_go_to_people_on_standard_error_and_to_programs_in_the_result(
    key, lifeboat, unsigned
):
    use(key, 20)
    code, out, err = lifeboat("image", "sign", unsigned, "--key", key.path, "--quiet")
    assert (code, out) == (0, "") and "warning" in err and "11 of 32 one-time keys" in err
    code, out, err = lifeboat("image", "sign", unsigned, "--key", key.path, "--json")
    assert (code, err) == (0, "")
    assert codes_of(json.loads(out)["signing"]["warnings"]) == ["key-low"]
