"""`roadwork-export`: models into folders of the model repository, proved; and the training of the project's own."""

from __future__ import annotations

import argparse
import os
import sys

from .commands import catalogue, florence2, head, models, networks, quantize, repository, techniques, tensorrt, tiers

GROUPS = (catalogue, techniques, repository, models, florence2, tensorrt, head, tiers, quantize, networks)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="roadwork-export", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for group in GROUPS:
        group.add(commands)
    return top


def main() -> None:
    arguments = parser().parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except BrokenPipeError:  # `list | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (FileNotFoundError, ValueError) as error:
        print(f"roadwork-export: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(f"roadwork-export: {error}; install it with: pip install 'roadwork[export]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("roadwork-export: interrupted; nothing half made is left", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
