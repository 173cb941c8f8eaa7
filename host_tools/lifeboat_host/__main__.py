"""`python -m lifeboat_host` is the `lifeboat` command."""

import sys

from lifeboat_host.commands.main import main

sys.exit(main())
