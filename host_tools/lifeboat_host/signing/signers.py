"""Who signs: a private key file here, or a command that asks somebody else."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.text import clean
from lifeboat_host.model.draft import Signed
from lifeboat_host.model.formats import SIGNED_MAX
from lifeboat_host.model.keyset import PublicKey, plain_signature
from lifeboat_host.signing import keyfile, lms
from lifeboat_host.signing.used import Ledger

_TIMEOUT_S = 120  # for a person who types a PIN
_OUTPUT_MAX = SIGNED_MAX + 16  # more than any signature that a manifest has room for
_SAID_MAX = 4096  # of what a command says on standard error
_PIECE = 4096


class KeySigner:
    """Signs with a private key file; a one-time key never twice."""

    def __init__(self, path: Path) -> None:
        """Raises what keyfile.load() raises."""
        self._key = keyfile.load(path)
        self.public = self._key.public
        self.last: Signed | None = None

    def sign(self, message: bytes) -> bytes:
        """Raises LifeboatError: key-damaged, and what Ledger.reserve() raises."""
        tree = self._key.tree()
        index, standing = Ledger(self._key).reserve(message)
        # From here on this number counts as used, whatever happens.
        signature = lms.sign(self.public, self._key.seed, tree, index, message)
        if not lms.verify(self.public, signature, message):
            raise self._key.damaged("what it signs is not by its public key")
        self.last = Signed(index, standing.left, standing.warnings)
        return signature


class CommandSigner:
    """Has a command sign: it gets the bytes on standard input, and returns the raw signature."""

    def __init__(self, command: str, public: PublicKey) -> None:
        """Raises LifeboatError: signer-command, key-large."""
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise LifeboatError(
                "signer-command", f"{command!r}: {error}", "quote it as for a shell"
            ) from None
        if not self._command:
            raise LifeboatError("signer-command", "the signer's command is empty")
        keyfile.check_fits(public.parameters)
        self.public = public
        self.last: Signed | None = None

    def sign(self, message: bytes) -> bytes:
        """Raises LifeboatError signer-start, -timeout, -output, -failed or -signature."""
        output = self._run(message)
        signature = plain_signature(output, self.public.parameters)
        if not lms.verify(self.public, signature, message):
            raise self._failed(
                "signer-signature",
                f"what it returned ({len(output)} bytes) is no signature of these bytes by key "
                f"{self.public.id.hex()}",
                f"it is to write nothing but the {self.public.parameters.signature_size} bytes of "
                "an LMS signature to standard output; is the public key the right one?",
            )
        self.last = Signed(int.from_bytes(signature[:4], "big"))
        return signature

    def _run(self, message: bytes) -> bytes:
        # A file, so that a command may read when it likes, or not at all.
        with tempfile.TemporaryFile() as given:
            given.write(message)
            given.seek(0)
            try:
                # In our session: it may ask for a PIN at the terminal.
                process = subprocess.Popen(
                    self._command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                raise self._failed("signer-start", why, "check its name") from None
        try:
            return self._collect(process)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()

    def _collect(self, process: subprocess.Popen[bytes]) -> bytes:
        """What it writes to standard output, while time and size stay within the limits."""
        assert process.stdout and process.stderr
        deadline = time.monotonic() + _TIMEOUT_S
        found, said = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, found)
            selector.register(process.stderr, selectors.EVENT_READ, said)
            while selector.get_map():
                left = deadline - time.monotonic()
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    raise self._timed_out(said)
                for key, _ in ready:
                    part = os.read(key.fd, _PIECE)
                    key.data.extend(part)
                    if not part:
                        selector.unregister(key.fileobj)
                del said[:-_SAID_MAX]
                if len(found) > _OUTPUT_MAX:
                    raise self._failed(
                        "signer-output",
                        f"it wrote more than {_OUTPUT_MAX} bytes to standard output",
                        "it is to write nothing but the raw signature",
                    )
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._timed_out(said) from None
        if code:
            end = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise self._failed("signer-failed", f"{end}{_told(said)}", "see what it says")
        return bytes(found)

    def _timed_out(self, said: bytearray) -> LifeboatError:
        why = f"no signature within {_TIMEOUT_S} seconds{_told(said)}"
        return self._failed("signer-timeout", why, "try the command by hand")

    def _failed(self, code: str, why: str, hint: str) -> LifeboatError:
        return LifeboatError(code, f"signer {self._command[0]}: {why}", hint)


def _told(said: bytearray) -> str:
    """The end of what a command said, on one line, to stand behind a reason."""
    text = " ".join(clean(said.decode("utf-8", "replace")).split())
    return f": {text}" if text else ""
