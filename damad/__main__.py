"""`python -m damad` is `damad`."""

from damad.cli import main

main()
