"""lifeboat: the boot stage that heals a controller's code flash from a region on its disks."""

from .boot import mount, power_on, report, segments, start
from .errors import LifeboatError

__version__ = "0.1.0"
