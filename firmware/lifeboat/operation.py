"""Findings in operation: for the report, and for the journals as they happen."""

from micropython import const

from . import running
from .report import empty

_TOLD = const(16)  # entries of "operation" in the report
_KEYS = const(64)  # of what lasts: each is told once, and more than that are not told


def free():
    """Return whether background work may touch flash or disks now."""
    return not (running.power_on or running.attended or running.disk_calls)


class Findings:
    """Where findings are told, as report.Report; this one forgets them."""

    def reason(self, code, where="", detail=""):
        """Tell what was not put right."""

    def lost(self, first, count):
        """Tell damaged blocks of the code flash of which there is no good copy."""

    def repaired(self, block, disk):
        """Tell that a block was written into flash from a disk, and read back."""

    def missing(self, index, members):
        """Tell that member index of a set of so many is absent."""


class Operation(Findings):
    """Where findings in operation go: the report, and news for the journals, in order."""

    def __init__(self, report):
        self.report = report
        self.news = []
        self._open = set()

    @property
    def data(self):
        """The report's, for the journal."""
        return self.report.data

    def tell(self, event, code, where, first, count):
        """Tell what happened."""
        entry = (event, code, where, first, count)
        told = self.report.data.get("operation")
        if not isinstance(told, list):  # the application may do with its report what it likes
            told = self.report.data["operation"] = []
        told.append(list(entry))
        del told[:-_TOLD]
        if len(self.news) < _KEYS:
            self.news.append(entry)

    def once(self, key, *entry):
        """Tell what lasts, when it begins."""
        if key not in self._open and len(self._open) < _KEYS:
            self._open.add(key)
            self.tell(*entry)

    def over(self, key):
        """What was told once is mended."""
        self._open.discard(key)

    def reason(self, code, where="", detail=""):
        self._guarded(self.report.reason, code, where, detail)
        self.once((code, where, detail), "reason", code, str(where), 0, 0)

    def lost(self, first, count):
        self._guarded(self.report.lost, first, count)
        self._guarded(self.report.reason, "block-lost", "flash")
        self.once(("lost", "flash", first), "lost", "", "flash", first, count)

    # An application that has cleared its report does not end the patrol.
    def _guarded(self, tell, *args):
        try:
            tell(*args)
        except (KeyError, TypeError, AttributeError, IndexError):
            self._restore()

    # Put back the keys that an application has taken out of the report.
    def _restore(self):
        report = self.report
        data = report.data
        for key, value in empty().items():
            if value is None:
                data.setdefault(key, value)
            elif not isinstance(data.get(key), type(value)):
                data[key] = value
        data["verdict"], data["build_id"] = report.verdict, report.build_id
