"""The subcommands of `lifeboat`."""
