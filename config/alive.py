"""Whether an HTTP service answers 200: ``python -m config.alive URL``, for health checks in images without curl.

Several slashes in a row count as one, because a prefix in the URL may be empty, or begin or end with a slash.
"""

from __future__ import annotations

import re
import sys
import urllib.request


def main() -> None:
    """Exit with 0 if it does."""
    url = sys.argv[1]
    if not url.startswith("http://"):
        sys.exit(f"{url} is not an http URL")
    url = re.sub(r"(?<!:)//+", "/", url)
    try:
        with urllib.request.urlopen(url, timeout=4) as answer:  # noqa: S310  # the scheme was looked at
            sys.exit(0 if answer.status == 200 else f"{url} answered {answer.status}")
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
