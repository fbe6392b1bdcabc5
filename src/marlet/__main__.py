"""`python -m marlet` is `marlet`."""

import sys

from marlet.cli import main

sys.exit(main())
