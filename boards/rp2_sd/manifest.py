# What is frozen into MicroPython for a Raspberry Pi Pico. Not the port's own _boot.py: it formats
# what it can not mount, and here that is embedded code.
include("$(MPY_DIR)/extmod/asyncio")
freeze("$(PORT_DIR)/modules", "rp2.py")
include(
    "../../firmware/manifest.py",
    arch="viper",
    drivers="portflash sdspi",
    extras="advice agent partitioning journal scrub romfs update userarea",
)
freeze(".", "board.py")
freeze("..", "_boot.py")
