"""`python -m finmaas_platform.demo`, which `make demo` runs."""

import sys

from finmaas_platform.demo.run import main

sys.exit(main())
