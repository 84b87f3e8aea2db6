"""`python -m tokenturing` is `tokenturing`; torchrun needs it so."""

from tokenturing.cli.main import main

main()
