"""`python -m finmaas_platform.cli`, the same as the `finmaas` script."""

from finmaas_platform.cli.main import main

main()
