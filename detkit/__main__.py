"""`python -m detkit`: the same as the `detkit` command (torchrun starts it this way)."""

from detkit.cli import main

if __name__ == "__main__":
    main()
