"""`python -m medscore_assets.cli`, the same as `medscore`."""

from medscore_assets.cli import main

main()
