"""`python -m offaxis`."""

from offaxis.cli import main

main()
