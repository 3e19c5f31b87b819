"""``python -m producer.demo``: the demo server in a process of its own, as tests and commands start it."""

from __future__ import annotations

import argparse
import sys

from producer.demo import DemoError, DemoOptions, serve


def main() -> None:
    """Serve as the arguments say, and print the URL once the server listens."""
    parser = argparse.ArgumentParser(prog="python -m producer.demo", description="Serve demo images.")
    defaults = DemoOptions()
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port, help="0 takes any free port")
    parser.add_argument("--latency", type=float, default=defaults.latency, help="seconds before a picture")
    parser.add_argument("--width", type=int, default=defaults.width, help="pixels")
    parser.add_argument("--height", type=int, default=defaults.height, help="pixels")
    parser.add_argument("--ready", type=int, default=defaults.ready, help="pictures drawn before it listens")
    try:
        options = DemoOptions(**vars(parser.parse_args()))
    except ValueError as error:
        parser.error(str(error))
    try:
        serve(options, lambda url: print(url, flush=True))
    except DemoError as error:
        sys.exit(str(error))


main()
