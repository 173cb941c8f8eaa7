"""A Raspberry Pi Pico with an SD card, in an emulator: `python -m lifeboat_host.pico`."""
