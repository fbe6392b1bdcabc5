"""`python -m marlet` is `marlet`."""

import sys


def main() -> int:
    """The command line, ready for Ctrl-C while it is still being imported."""
    try:
        from marlet.cli import main as command
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())
