"""The command `push-hub`, and `python -m hub`. Says what to install where only the publisher is installed."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from hub.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"push-hub: the command line needs the package {error.name}: pip install 'push-hub[server]'")
    run()


if __name__ == "__main__":
    main()
