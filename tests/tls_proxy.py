"""``python -m tests.tls_proxy PORT TARGET CERTIFICATE KEY``: accept TLS on loopback for a server without TLS.

The Redis of the Python package is built without TLS. Behind this proxy, that Redis acts like a Redis with TLS: a client
verifies the certificate, and a connection without TLS ends at once.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import suppress
from functools import partial


async def serve(port: int, target: int, certificate: str, key: str) -> None:
    """Relay each TLS connection at a port to the target port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(partial(_relay, target), "127.0.0.1", port, ssl=context)
    await server.serve_forever()


async def _relay(target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_copy(reader, target_writer), _copy(target_reader, writer))
    writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until either side ends, then close the other side, so that copying in the other direction ends too."""
    with suppress(OSError):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
