# What is frozen into MicroPython for an ESP32. Not the port's own _boot.py and what it needs: that
# looks for a file system to mount, and here lifeboat comes first.
include("$(MPY_DIR)/extmod/asyncio")
freeze("$(PORT_DIR)/modules", "espnow.py")
include(
    "../../firmware/manifest.py",
    arch="viper",
    drivers="portflash sdspi",
    extras="partitioning journal scrub romfs update userarea",
)
freeze(".", "board.py")
freeze("..", "_boot.py")
