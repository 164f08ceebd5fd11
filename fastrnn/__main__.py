"""``python -m fastrnn`` is the command ``fastrnn``."""

from .cli import main

if __name__ == "__main__":  # worker processes import this file too
    raise SystemExit(main())
