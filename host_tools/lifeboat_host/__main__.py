"""`python -m lifeboat_host` is the `lifeboat` command."""

import sys

from lifeboat_host.cli import main

sys.exit(main())
