"""`python -m stochseg` is `stochseg`."""

import sys

from stochseg.cli import main

sys.exit(main())
