"""`python -m daulat`."""

from daulat.cli import main

main()
