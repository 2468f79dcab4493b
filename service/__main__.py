"""`python -m service` is `logwarden`."""

from service.cli import main

main()
