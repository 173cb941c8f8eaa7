"""Keys, key sets and private key files, and the commands about them."""

import hashlib
import json
import os
import random
import re
import shlex
import stat
import struct
from pathlib import Path

import handmade
import pytest
from pyhsslms import pyhsslms

from fakes import signer as owners
from lifeboat import owner
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model import formats, keyset
from lifeboat_host.model.keyset import KeySet, Listed, Parameters, PublicKey
from lifeboat_host.signing import keyfile, lms

ROOT = Path(__file__).parents[2]
A, B = owners.key(1), owners.key(2)
# Bytes of a one-time signature: RFC 8554, table 1; NIST SP 800-208, table 1.
LMOTS = {
    (32, 1): 8516, (32, 2): 4292, (32, 4): 2180, (32, 8): 1124,
    (24, 1): 4828, (24, 2): 2452, (24, 4): 1252, (24, 8): 652,
}  # fmt: skip
# Type codes: RFC 8554, sections 4.1 and 5.1; NIST SP 800-208, section 4.
LMOTS_CODES = {
    (32, 1): 1, (32, 2): 2, (32, 4): 3, (32, 8): 4,
    (24, 1): 5, (24, 2): 6, (24, 4): 7, (24, 8): 8,
}  # fmt: skip
LMS_CODES = {
    (32, 5): 5, (32, 10): 6, (32, 15): 7, (32, 20): 8, (32, 25): 9,
    (24, 5): 10, (24, 10): 11, (24, 15): 12, (24, 20): 13, (24, 25): 14,
}  # fmt: skip


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Where the records are: not in the home folder of whoever runs the tests."""
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder / "lifeboat" / "keys"


@pytest.fixture
def key_file(lifeboat, tmp_path):
    path = tmp_path / "owner.key"
    assert lifeboat("key", "new", path, "--height", 5)[0] == 0
    return path


def code_of(call, *args):
    with pytest.raises(LifeboatError) as caught:
        call(*args)
    return caught.value.code


# Public keys


@pytest.mark.parametrize("n, width", LMOTS)
@pytest.mark.parametrize("height", [5, 10, 15, 20, 25])
def test_type_codes_and_sizes_are_those_of_the_standards(n, width, height):
    parameters = Parameters(n, height, width)
    codes = struct.pack(">II", LMS_CODES[n, height], LMOTS_CODES[n, width])
    assert parameters.codes == codes
    assert Parameters.parse(codes) == parameters
    assert parameters.signature_size == 4 + LMOTS[n, width] + 4 + n * height
    key = PublicKey.parse(codes + bytes(16 + n))
    assert key == PublicKey.parse(b"\0\0\0\1" + codes + bytes(16 + n))
    assert key.id == hashlib.sha256(codes + bytes(16 + n)).digest()[:8]


def test_no_other_kind_of_key_is_taken():
    """SHAKE is none of ours, and hashes of two sizes do not go together."""
    known = {
        struct.pack(">II", lms_code, LMOTS_CODES[n, width]): 24 + n
        for (n, _), lms_code in LMS_CODES.items()
        for n_, width in LMOTS
        if n_ == n
    }
    assert len(known) == 40
    for codes in (struct.pack(">II", a, b) for a in range(27) for b in range(19)):
        for size in (48, 56):
            data = codes + bytes(size - 8)
            if known.get(codes) == size:
                assert PublicKey.parse(data).raw == data
            else:
                assert code_of(PublicKey.parse, data) == "key-form"


def test_a_key_of_another_length_is_none():
    for key in (A, owners.key(5, owners.M32_H5, owners.N32_W8)):
        for size in range(0, 70):
            data = (key.public + bytes(20))[:size]
            if size == len(key.public):
                assert PublicKey.parse(data).raw == key.public
            else:
                assert code_of(PublicKey.parse, data) == "key-form"
    assert code_of(PublicKey.parse, b"\0\0\0\2" + A.public) == "key-form"


VECTORS = json.loads((ROOT / "tests/golden/lms.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_published_vectors(vector):
    public, message, signature = (
        bytes.fromhex(vector[k]) for k in ("public", "message", "signature")
    )
    if "SHAKE" in vector["name"]:
        assert code_of(PublicKey.parse, public) == "key-form"
        return
    if public[:4] == b"\0\0\0\2":  # the upper tree of two signs the public key of the lower one
        size = pyhsslms.LmsSignature.sizeof(signature[4:])
        key_size = pyhsslms.LmsPublicKey.sizeof(signature[4 + size :])
        message, lower = signature[4 + size :][:key_size], signature[4:][:size]
        public, signature = public[4:], lower
    key = PublicKey.parse(public)
    assert lms.verify(key, signature, message)
    assert not lms.verify(key, signature, message + b"\0")
    plain = keyset.plain_signature(signature, key.parameters)
    leaf = int.from_bytes(plain[:4], "big")
    assert keyset.signature_kind(signature) == (key.parameters, leaf)


@pytest.mark.parametrize("ots", [1, 2, 3, 4, 5, 6, 7, 8])
def test_signatures_of_another_implementation_are_verified_and_forgeries_are_not(ots):
    theirs = owners.key(3, owners.M32_H5 if ots < 5 else owners.M24_H5, ots)
    key = PublicKey.parse(theirs.public)
    message = b"LBMANIF\n and more"
    signature = theirs.sign(message, leaf=31)
    assert len(signature) == key.parameters.signature_size
    assert lms.verify(key, signature, message)
    assert lms.verify(key, bytes(4) + signature, message)
    assert keyset.signature_kind(signature) == (key.parameters, 31)
    assert keyset.signature_kind(bytes(4) + signature) == (key.parameters, 31)
    rng = random.Random(ots)
    places = [0, 3, 4, 7, 8, len(signature) - 1]
    places += [len(signature) - 5 * key.parameters.n - 1]  # the tree's type
    for place in places + [rng.randrange(len(signature)) for _ in range(6)]:
        forged = bytearray(signature)
        forged[place] ^= 1 << rng.randrange(8)
        assert not lms.verify(key, bytes(forged), message)
    others = [signature[:-1], signature + b"\0", b"\0\0\0\1" + signature, b"", signature[4:]]
    others += [signature[:99] + b"\0" + signature[99:], signature[:99] + signature[100:]]
    for other in others:
        assert not lms.verify(key, other, message)
    for size in range(0, len(signature), 61):
        assert keyset.signature_kind(signature[:size]) is None


def test_a_one_time_signature_of_another_type_is_none():
    """pyhsslms alone takes one, whatever the key says."""
    wide = owners.key(4, owners.M24_H5, 8)
    key = PublicKey.parse(wide.public[:7] + b"\7" + wide.public[8:])
    signature = wide.sign(b"m")
    assert pyhsslms.LmsPublicKey.deserialize(key.raw).verify(b"m", signature)
    assert not lms.verify(key, signature, b"m")


# Key sets


def test_a_key_set_has_the_bytes_of_the_page():
    found = KeySet.make(
        7, [Listed(PublicKey.parse(A.public), 7), Listed(PublicKey.parse(B.public), 4)]
    )
    assert found.pack() == owners.key_set(7, (7, A), (4, B))
    assert KeySet.parse(found.pack()) == found
    assert KeySet.parse(found.pack() + bytes(9)) == found
    assert found.keys[1].role_names == ["keys"]
    assert found.key(A.id, "code").raw == A.public
    assert found.key(B.id, "code") is None and found.key(b"x" * 8, "code") is None


def mutated_sets():
    rng = random.Random(7)
    big = owners.key(5, owners.M32_H5, owners.N32_W8)
    sets = [
        owners.key_set(1, (7, A)),
        owners.key_set(2, (1, A), (4, B), (2, big)),
        owners.key_set(3, *[(1, owners.key(i)) for i in range(4)]),
        owners.key_set(3, *[(1, owners.key(i)) for i in range(5)]),
        owners.key_set(1, (7, A), (1, A)), owners.key_set(1, (6, A)), owners.key_set(1, (0, A)),
        owners.key_set(1), owners.key_set(0xFFFFFFFF, (0x81, A), (0x80, B)),
    ]  # fmt: skip
    for raw in sets:
        yield raw
        for size in (0, 4, 7, 8, 65, 66, len(raw) - 1):
            yield raw[:size]
        yield raw + b"more"
        for _ in range(150):
            changed = bytearray(raw)
            for _ in range(rng.choice((1, 1, 2))):
                changed[rng.randrange(len(raw))] = rng.choice(
                    (0, 1, 5, 10, 255, rng.randrange(256))
                )
            yield bytes(changed)


def test_boards_and_tools_agree_which_bytes_are_a_key_set():
    answers = set()
    for raw in mutated_sets():
        theirs = owner._parsed(raw)
        try:
            ours = KeySet.parse(raw)
        except LifeboatError as error:
            assert error.code == "keyset-form"
            ours = None
        assert (ours is None) == (theirs is None), raw.hex()
        if ours:
            assert ours.serial == theirs.serial
            assert {one.key.id: (one.roles, one.key.raw) for one in ours.keys} == theirs.keys
        answers.add(ours is None)
    assert answers == {True, False}


def test_a_manifest_brings_the_first_set_and_a_broken_one_is_none():
    one, two = owners.key_set(1, (7, A)), owners.key_set(2, (7, B))

    def brought(*contents):
        extensions = b"".join(
            struct.pack("<HHI", kind, 0, len(data)) + data + bytes(-len(data) % 4)
            for kind, data in contents
        )
        found = formats.parse_manifest(handmade.manifest(extensions=extensions)).key_set
        return found and found.serial

    assert brought() is None
    assert brought((9, b"abc"), (1, one), (1, two)) == 1
    assert brought((1, one + bytes(3))) == 1
    assert brought((1, b""), (1, two)) is None
    assert brought((1, one[:-1])) is None


# Private key files


def test_a_new_key_is_its_owners_only_and_nothing_else_is_written(lifeboat, tmp_path, state):
    path = tmp_path / "owner.key"
    before = os.umask(0)
    try:
        code, out, _ = lifeboat("key", "new", path, "--height", "5", "--json")
    finally:
        os.umask(before)
    told = json.loads(out)
    assert code == 0 and told["left"] == 32 and told["warnings"] == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["owner.key", "state"]
    assert [entry.name for entry in state.iterdir()] == [f"{told['id']}-0"]
    assert stat.S_IMODE((state / f"{told['id']}-0").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert told["parameters"] == ["LMS_SHA256_M24_H5", "LMOTS_SHA256_N24_W4"]


def test_the_public_key_is_that_of_the_other_implementation(lifeboat, key_file, tmp_path):
    fields = json.loads(key_file.read_text())
    raw = bytes.fromhex(fields["public"])
    theirs = pyhsslms.LmsPrivateKey(
        raw[:4], raw[4:8], bytes.fromhex(fields["seed"]), raw[8:24]
    ).publicKey()
    assert theirs.serialize() == raw
    public = tmp_path / "owner.pub"
    for _ in range(2):  # the same once more is no error
        assert lifeboat("key", "show", key_file, "--public", public)[0] == 0
        assert public.read_bytes() == raw
    code, out, _ = lifeboat("key", "show", public, "--json")
    assert code == 0 and json.loads(out)["id"] == hashlib.sha256(raw).hexdigest()[:16]
    hss = tmp_path / "hss.pub"
    hss.write_bytes(b"\0\0\0\1" + raw)
    assert lifeboat("key", "show", hss, "--public", tmp_path / "lms.pub")[0] == 0
    assert (tmp_path / "lms.pub").read_bytes() == raw
    code, _, err = lifeboat("key", "show", hss, "--public", key_file)
    assert code == 1 and "is there already" in err


def test_two_keys_have_nothing_in_common(lifeboat, tmp_path):
    found = []
    for name in ("a", "b"):
        lifeboat("key", "new", tmp_path / name, "--height", 5)
        fields = json.loads((tmp_path / name).read_text())
        found.append((fields["seed"], fields["public"][16:48]))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_the_default_is_1024_signatures_of_1500_bytes(lifeboat):
    assert keyfile.DEFAULT.one_time_keys == 1024
    assert keyfile.DEFAULT.signature_size == 4 + 1252 + 4 + 240
    assert "1024, the default" in lifeboat("key", "new", "--help")[1]


@pytest.mark.parametrize(
    "options, code",
    [
        (("--height", 20), "key-height"),
        (("--height", 25), "key-height"),
        (("--height", 7), "key-height"),
        (("--height", -5), "key-height"),
        (("--hash", 256, "--width", 1, "--height", 5), "key-large"),
        (("--hash", 256, "--width", 1, "--height", 15), "key-large"),
    ],
)
def test_keys_that_can_not_be_made_are_refused_with_a_reason(lifeboat, tmp_path, options, code):
    exit_code, out, _ = lifeboat("key", "new", tmp_path / "k", *options, "--json")
    error = json.loads(out)["error"]
    assert (exit_code, error["code"]) == (1, code) and error["hint"]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(lifeboat, key_file, tmp_path):
    before = key_file.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "old.used").write_text("the journal of a key that was deleted\n")
    for name in (key_file, link, tmp_path, tmp_path / "old", "/", ""):
        code, out, _ = lifeboat("key", "new", name, "--height", 5, "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, "key-exists")
    assert key_file.read_bytes() == before and not (tmp_path / "elsewhere").exists()
    code, out, _ = lifeboat("key", "new", tmp_path / "none" / "k", "--height", 5, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "key-write")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o601, 0o666])
def test_a_key_that_others_may_read_is_refused(lifeboat, key_file, mode):
    key_file.chmod(mode)
    code, out, _ = lifeboat("key", "show", key_file, "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (1, "key-mode")
    assert f"chmod 600 {key_file}" in error["hint"]
    key_file.chmod(0o400)
    assert lifeboat("key", "show", key_file)[0] == 0


def test_what_is_no_file_is_no_key(lifeboat, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"{" + b" " * (2 << 20))
    for name in ("pipe", "loop", "large", "none", "."):
        code, out, _ = lifeboat("key", "show", tmp_path / name, "--json")
        assert (code, json.loads(out)["error"]["code"]) == (1, "key-read"), name


def changed(fields, **changes):
    return json.dumps({**fields, **changes})


def test_no_content_of_a_key_file_gives_a_traceback(key_file):
    text = key_file.read_text()
    fields = json.loads(text)
    rng = random.Random(1)
    contents = ["", "{", "{}", "[]", "[" * 9000, '{"a":' * 9000, "\0" * 48, text[:-3], text[:400]]
    odd = (None, -1, 1.5, True, "", "zz", [], 10**30, "\u00e9" * 48, "0" * 96)
    for name in fields:
        if name not in ("keep", "parameters"):
            contents += [changed(fields, **{name: value}) for value in odd]
            contents.append(json.dumps({k: v for k, v in fields.items() if k != name}))
    contents += [
        changed(fields, first=31, end=31), changed(fields, first=0, end=33),
        changed(fields, leaves=fields["leaves"][:-4]), changed(fields, seed=fields["seed"] + "00"),
        changed(fields, public="00000001" + fields["public"] + "00"),
    ]  # fmt: skip
    for _ in range(15):
        data = bytearray(text.encode())
        data[rng.randrange(300)] = rng.randrange(256)
        contents.append(bytes(data).decode("latin-1"))
    codes = set()
    for content in contents:
        key_file.write_bytes(content.encode("latin-1", "replace"))
        try:
            keyfile.read(key_file)
        except LifeboatError as error:
            codes.add(error.code)
    assert codes == {"key-form", "key-version"}


def test_the_seed_is_never_shown(lifeboat, key_file):
    seed = json.loads(key_file.read_text())["seed"]
    shown = "".join(lifeboat("key", "show", key_file, *more)[1] for more in ((), ("--json",)))
    assert seed not in shown
    assert "seed=" not in repr(keyfile.load(key_file))


# Key sets, by the command


def test_a_key_set_is_a_file_and_a_line_for_board_py(lifeboat, key_file, tmp_path):
    (tmp_path / "b:odd.pub").write_bytes(B.public)
    out_file = tmp_path / "set1.keys"
    arguments = (f"{key_file}:code,keys", f"{tmp_path}/b:odd.pub:unlock", "--serial", 7)
    code, out, _ = lifeboat("key", "set", "-o", out_file, *arguments, "--json")
    told = json.loads(out)
    own = bytes.fromhex(json.loads(key_file.read_text())["public"])
    expected = owners.key_set(7, (5, own), (2, B))
    assert code == 0 and out_file.read_bytes() == expected
    names = {}
    exec(told["python"], names)
    assert names["KEYS"] == expected
    assert [one["roles"] for one in told["keys"]] == [["code", "keys"], ["unlock"]]
    code, out, _ = lifeboat("key", "set", "-o", out_file, *arguments)
    assert told["python"] in out


@pytest.mark.parametrize(
    "keys, code",
    [
        (("A:unlock",), "keyset-form"),
        (("A:code", "A:keys"), "keyset-form"),
        (("A:code", "B:code", "C:code", "D:code", "E:code"), "keyset-form"),
        (("A:code", "none:code"), "key-read"),
        (("A:code", "W1:code"), "key-large"),
    ],
)
def test_sets_that_no_board_would_take_are_refused(lifeboat, tmp_path, monkeypatch, keys, code):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("ABCDE"):
        Path(name).write_bytes(owners.key(number).public)
    Path("W1").write_bytes(struct.pack(">II", 5, 1) + bytes(48))
    exit_code, out, _ = lifeboat("key", "set", "-o", "set", "--serial", 1, *keys, "--json")
    assert (exit_code, json.loads(out)["error"]["code"]) == (1, code)
    assert not Path("set").exists()


@pytest.mark.parametrize("text", ["owner.pub", "owner.pub:", ":code", "owner.pub:code,", "a:sign"])
def test_a_key_without_roles_is_wrong_usage(lifeboat, tmp_path, text):
    code, _, err = lifeboat("key", "set", "-o", tmp_path / "set", "--serial", 1, text)
    assert code == 2 and "KEY:ROLES" in err


def test_a_serial_has_four_bytes(lifeboat, key_file, tmp_path):
    arguments = ("key", "set", "-o", tmp_path / "set", f"{key_file}:code", "--json", "--serial")
    assert lifeboat(*arguments, 0xFFFFFFFF)[0] == 0
    assert json.loads(lifeboat(*arguments, 1 << 32)[1])["error"]["code"] == "keyset-form"


@pytest.mark.parametrize("serial", [1, ord("{"), 0x7B7B7B7B])
def test_keys_of_a_set_are_found_by_role_whatever_its_serial(tmp_path, serial):
    path = tmp_path / "set"
    path.write_bytes(owners.key_set(serial, (1, A), (4, B)))
    assert [key.raw for key in keyfile.load_keys(path, "code")] == [A.public]
    path.write_bytes(path.read_bytes() + b"\0")
    assert code_of(keyfile.load_set, path) == "keyset-form"
    path.write_bytes(A.public)
    assert [key.raw for key in keyfile.load_keys(path, "code")] == [A.public]


# The page


def test_each_code_of_keys_and_signers_stands_in_the_table_of_the_page():
    sources = [
        *(ROOT / "host_tools/lifeboat_host/signing").glob("*.py"),
        *(ROOT / "host_tools/lifeboat_host/model" / f"{name}.py" for name in ("draft", "keyset")),
        ROOT / "host_tools/lifeboat_host/commands/key.py",
    ]
    used = set()
    for path in sources:
        used |= set(re.findall(r'"((?:key|keyset|signer)-[a-z]+)"', path.read_text()))
    page = (ROOT / "docs/keys.md").read_text()
    table = set(re.findall(r"^\| `([a-z]+-[a-z]+)` \|", page, re.M))
    assert used - {"key-unknown"} == table  # which a board says, too
    assert len(used) > 20


def test_the_commands_of_the_page_are_commands(lifeboat):
    """Each is as the parser wants it; what they do the other tests show."""
    from lifeboat_host.commands import main

    page = (ROOT / "docs/keys.md").read_text()
    lines = re.findall(r"^    (?:\./)?lifeboat ([a-z].*)$", page, re.M)
    assert len(lines) > 10
    for line in lines:
        main._parser().parse_args(shlex.split(line, comments=True))
