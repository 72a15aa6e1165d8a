"""``python -m gprior`` is the command ``gprior``."""

from gprior.cli import main

if __name__ == "__main__":
    main()
