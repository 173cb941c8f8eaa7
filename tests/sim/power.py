"""A power supply that fails at a chosen device operation."""


class PowerCut(BaseException):
    """The power is gone. Not an Exception: no code of a device can catch a power cut."""


class Power:
    """Counts the operations that change a device, over all devices of a machine.

    cut_at: number of the operation (from 1) at which the power fails, 0 for never; torn: it
    fails within that operation, not before it: True, or one of the device's shapes() for it. log:
    (device, operation, where).
    """

    def __init__(self, cut_at=0, torn=False):
        self.cut_at = cut_at
        self.torn = torn
        self.count = 0
        self.log = []
        self.off = False

    def operation(self, device, name, where, data=None):
        """Account for an operation that a device is about to do.

        device: has a label, and tear(name, where, data, shape), which does a part of the
        operation; shape None: what the device does by default.
        """
        if self.off:
            raise PowerCut
        self.count += 1
        self.log.append((device.label, name, where))
        if self.count == self.cut_at:
            self.off = True
            if self.torn:
                device.tear(name, where, data, self.torn if isinstance(self.torn, str) else None)
            raise PowerCut
