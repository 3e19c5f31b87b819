"""The transport leans on parts of kombu that are nobody's interface: they are as they were when it was written."""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import version
from operator import attrgetter
from typing import Any

import pytest
from kombu.transport import redis, virtual

#: What the transport overrides or calls, with the first digits of the SHA-256 of its source.
_LEANED_ON = {
    "redis.QoS.append": "35c655f6ecc6",
    "redis.QoS.ack": "1bc15a4ddf54",
    "redis.QoS.reject": "747a02434344",
    "redis.QoS.restore_by_tag": "58e161d81b6f",
    "redis.QoS.restore_unacked": "8954efef014d",
    "redis.QoS.pipe_or_acquire": "ad7f549d96c8",
    "redis.Channel.__init__": "f189bdebe243",
    "redis.Channel.close": "101e9b9cdad4",
    "redis.Channel.conn_or_acquire": "25883caca6c4",
    "redis.Channel._create_client": "dae92bc4075d",
    "redis.Channel._q_for_pri": "f3997660680d",
    "redis.Channel._do_restore_message": "8b430df94e45",
    "redis.Channel._put": "1c0cf9749576",
    "redis.Channel._disconnect_pools": "db50da048a22",
    "redis.MultiChannelPoller.__init__": "c17f608673b9",
    "redis.MultiChannelPoller._register": "327dc991dcc1",
    "redis.MultiChannelPoller._client_registered": "a16964c3e3d2",
    "redis.MultiChannelPoller._register_BRPOP": "85724582464a",
    "redis.MultiChannelPoller._update_brpop_polling": "de7b4600acf5",
    "redis.MultiChannelPoller.on_poll_start": "414f76caaa67",
    "redis.MultiChannelPoller.on_readable": "c0d99f241607",
    "redis.MultiChannelPoller.get": "e0f960e0c328",
    "redis.Transport.__init__": "4fc30e8fa54d",
    "redis.Transport.register_with_event_loop": "4b835642e4a9",
    "virtual.QoS.append": "b388f0cd6485",
    "virtual.QoS.ack": "0714292b916f",
    "virtual.QoS.can_consume_max_estimate": "936d3958266c",
    "virtual.QoS.restore_unacked_once": "c81f3d0fb29b",
    "virtual.Channel.basic_consume": "0fec96269493",
    "virtual.Channel.close": "26368e1cadfc",
    "virtual.Transport._deliver": "799e242f3ec5",
}


@pytest.mark.parametrize(("name", "digest"), _LEANED_ON.items(), ids=_LEANED_ON)
def test_kombu_is_as_it_was(name: str, digest: str) -> None:
    """Each part has the source that the transport was written against."""
    part: Any = attrgetter(name.partition(".")[2])({"redis": redis, "virtual": virtual}[name.partition(".")[0]])
    found = hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:12]
    assert found == digest, (
        f"kombu {version('kombu')} has another {name} than the one that tasks/transport.py leans on: "
        f"read what has changed, and put {found} here when the transport goes with it"
    )
