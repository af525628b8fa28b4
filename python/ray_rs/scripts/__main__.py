"""`python -m ray_rs.scripts`: the command line where the console script is not on the path."""

import sys

from ray_rs.scripts import main

sys.exit(main())
