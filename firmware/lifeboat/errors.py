"""The one error type of lifeboat."""


class LifeboatError(Exception):
    """Something read or written is not as the format or the policy requires.

    code: stable, one of docs/operations.md; detail: the offending value, for people.
    """

    def __init__(self, code, detail=""):
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
