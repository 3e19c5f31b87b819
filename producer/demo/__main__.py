"""``python -m producer.demo`` runs the demo server in a separate process, for tests and commands."""

from __future__ import annotations

import argparse
import sys

from producer.demo import DemoError, DemoOptions, serve


def main() -> None:
    """Run the server with the given arguments, and print its URL once it listens."""
    parser = argparse.ArgumentParser(prog="python -m producer.demo", description="Serve demo images.")
    defaults = DemoOptions()
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port, help="0 takes any free port")
    parser.add_argument("--latency", type=float, default=defaults.latency, help="seconds before each image")
    parser.add_argument("--width", type=int, default=defaults.width, help="pixels")
    parser.add_argument("--height", type=int, default=defaults.height, help="pixels")
    parser.add_argument("--ready", type=int, default=defaults.ready, help="images drawn before it listens")
    try:
        options = DemoOptions(**vars(parser.parse_args()))
    except ValueError as error:
        parser.error(str(error))
    try:
        serve(options, lambda url: print(url, flush=True))
    except DemoError as error:
        sys.exit(str(error))


main()
