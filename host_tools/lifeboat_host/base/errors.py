"""The one error type of the host tools, and the exit codes of the command."""

from __future__ import annotations

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_DAMAGE = 3  # a check ran to its end and found damage


class LifeboatError(Exception):
    """The device, a file or the input is not as it must be; never a bug of ours.

    code: stable, for programs and tests (`manifest-crc`, `disk-read`, ...).
    message: what is wrong, with file and offset where there are any.
    hint: the next step a person can take; empty when there is none.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def located(self, where: str) -> LifeboatError:
        """The same error with the place it was found at in front of the message."""
        return LifeboatError(self.code, f"{where}: {self.message}", self.hint)

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "hint": self.hint}
