"""What is under way now: the one place that background work asks before it touches a device."""

# The Report of the last power-on, or None. Set at its end: during one it is the last one's.
report = None

# Whether a power-on is under way.
power_on = False

# Set for a person's session, with the host tools or with lifeboat.partitioning: the scrubber keeps
# off until the next reset.
attended = False

# How many calls of the application to its disks are under way: code that interrupts one keeps its
# hands off.
disk_calls = 0

# Where the memory says that regions lie: tuples (set id, region id, first LBA, sectors).
places = ()
