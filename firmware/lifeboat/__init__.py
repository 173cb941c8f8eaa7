"""lifeboat: the boot stage that heals a controller's code flash from a region on its disks."""

from .boot import power_on, report, start
from .errors import LifeboatError

# Extras: not every board runs its code from here, or tries new builds.
try:
    from .romfs import mount, segments
except ImportError:
    pass
try:
    from .trial import confirm, reject
except ImportError:
    pass

__version__ = "0.1.0"
