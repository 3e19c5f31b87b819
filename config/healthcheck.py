"""Health check without curl: ``python -m config.healthcheck URL`` succeeds if the service responds with 200.

The check is for containers that have no curl. Repeated slashes in the URL count as one. A URL has such slashes if its
path prefix is empty, or starts or ends with a slash.
"""

from __future__ import annotations

import re
import sys
import urllib.request


def main() -> None:
    """Exit with status 0 if the service responds with 200; otherwise, exit with a message and status 1."""
    url = sys.argv[1]
    if not url.startswith("http://"):
        sys.exit(f"{url} is not an http URL")
    url = re.sub(r"(?<!:)//+", "/", url)
    try:
        with urllib.request.urlopen(url, timeout=4) as response:  # noqa: S310  # the scheme is checked above
            sys.exit(0 if response.status == 200 else f"{url} responded with {response.status}")
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
