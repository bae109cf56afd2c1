"""`python -m pipeline.cli` is `sluice`."""

from pipeline.cli.main import main

main()
