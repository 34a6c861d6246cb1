"""The entry of the `csd-nerf` command, also as `python -m csd_nerf`; imports late and little."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; Ctrl-C ends it with one line and exit code 130, while it imports too."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        print(f"csd-nerf {version('csd_nerf')}")
        return
    try:
        from csd_nerf import cli

        cli.main()
    except KeyboardInterrupt:
        print("csd-nerf: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
