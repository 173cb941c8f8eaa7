"""A power supply that fails at a chosen device operation."""


class PowerCut(BaseException):
    """The power is gone. Not an Exception: no code of a device can catch a power cut."""


class Power:
    """Counts the operations that change a device, over all devices of a machine.

    cut_at: number of the operation (from 1) at which the power fails, 0 for never; torn: it
    fails half-way through that operation, not before it. log: (device, operation, where).
    """

    def __init__(self, cut_at=0, torn=False):
        self.cut_at = cut_at
        self.torn = torn
        self.count = 0
        self.log = []
        self.off = False

    def operation(self, device, name, where, tear=None):
        """Account for an operation; tear() is called to do half of it when it is torn."""
        if self.off:
            raise PowerCut
        self.count += 1
        self.log.append((device, name, where))
        if self.count == self.cut_at:
            self.off = True
            if self.torn and tear:
                tear()
            raise PowerCut
