"""Find the hosts of a column of URLs. No I/O."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.download import urls
from tasks.errors import InvalidUrlError

#: The part of a URL before its path. Browsers ignore spaces before a URL, and read backslashes as slashes.
_ORIGIN = r"^(?P<origin>[\x00-\x20]*[A-Za-z][A-Za-z0-9+.-]*:[/\\]*[^/\\?#]*)"


def hosts(column: Any) -> Any:
    """Return the host of each URL in an Arrow column. The host is null if the URL can't be downloaded.

    Hosts are named as in ``producer hosts``: with the port, unless it is the default of the scheme. Only distinct
    origins are parsed, so a column with few hosts takes little time.
    """
    origins = pc.struct_field(pc.extract_regex(column.combine_chunks().cast(pa.string()), _ORIGIN), "origin")
    encoded = origins.dictionary_encode()
    names = pa.array([_host(origin) for origin in encoded.dictionary.to_pylist()], pa.string())
    return names.take(encoded.indices)


@lru_cache(maxsize=20_000)
def _host(origin: str) -> str | None:
    try:
        return urls.parse(f"{origin}/").origin.partition("://")[2]
    except InvalidUrlError:
        return None
