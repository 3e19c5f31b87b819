"""The internals of kombu and Celery used by our transport, backend and batcher are unchanged."""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import version
from operator import attrgetter
from typing import Any

import pytest
from celery.app import base
from celery.backends import redis as backend
from celery.worker import request
from kombu import resource
from kombu.transport import redis, virtual

#: The parts that we override or call, each with the first digits of its source's SHA-256.
_INTERNALS = {
    "redis.QoS.append": "35c655f6ecc6",
    "redis.QoS.ack": "1bc15a4ddf54",
    "redis.QoS.reject": "747a02434344",
    "redis.QoS.restore_visible": "d4a4a40a3eaf",
    "redis.QoS.restore_by_tag": "58e161d81b6f",
    "redis.QoS.restore_unacked": "8954efef014d",
    "redis.QoS.pipe_or_acquire": "ad7f549d96c8",
    "redis.Channel.__init__": "f189bdebe243",
    "redis.Channel.close": "101e9b9cdad4",
    "redis.Channel.conn_or_acquire": "25883caca6c4",
    "redis.Channel._connparams": "e9a4295085a8",
    "redis.Channel._create_client": "dae92bc4075d",
    "redis.Channel._poll_error": "2c941c0124b9",
    "redis.Channel._q_for_pri": "f3997660680d",
    "redis.Channel._do_restore_message": "8b430df94e45",
    "redis.Channel.get_table": "a4ba78a22653",
    "redis.Channel._put": "1c0cf9749576",
    "redis.Channel._disconnect_pools": "db50da048a22",
    "redis._socket_readable": "a057f013e4c4",
    "redis.MultiChannelPoller.__init__": "c17f608673b9",
    "redis.MultiChannelPoller._register": "327dc991dcc1",
    "redis.MultiChannelPoller._client_registered": "a16964c3e3d2",
    "redis.MultiChannelPoller.on_poll_start": "414f76caaa67",
    "redis.MultiChannelPoller.handle_event": "a96a90b9df4b",
    "redis.MultiChannelPoller.on_readable": "c0d99f241607",
    "redis.MultiChannelPoller.get": "e0f960e0c328",
    "redis.Transport.__init__": "4fc30e8fa54d",
    "redis.Transport.register_with_event_loop": "4b835642e4a9",
    "virtual.QoS.append": "b388f0cd6485",
    "virtual.QoS.ack": "0714292b916f",
    "virtual.QoS.can_consume_max_estimate": "936d3958266c",
    "virtual.QoS.restore_unacked_once": "c81f3d0fb29b",
    "virtual.Channel._lookup": "82b0e60149b5",
    "virtual.Channel.basic_consume": "0fec96269493",
    "virtual.Channel.close": "26368e1cadfc",
    "virtual.Transport._deliver": "799e242f3ec5",
    "virtual.Message._decode": "e59b229fecb5",
    "backend.RedisBackend.on_chord_part_return": "ed0b7a2ee79f",
    "backend.RedisBackend.encode_result": "e476869148eb",
    "backend.CHORD_PART_RETURN_LUA": "c7563aa7add4",
    "app.Celery._after_fork": "8279c3de88f2",
    "resource.Resource.resize": "971d24681444",
    "request.Request.__init__": "efdf47149cde",
    "request.Request.acknowledge": "60dad9ce9c39",
}
_MODULES = {
    "redis": redis,
    "virtual": virtual,
    "backend": backend,
    "request": request,
    "app": base,
    "resource": resource,
}


@pytest.mark.parametrize(("name", "digest"), _INTERNALS.items(), ids=_INTERNALS)
def test_internal_is_unchanged(name: str, digest: str) -> None:
    """Each part of kombu and Celery still has the source for which our code was written."""
    module, _, attribute = name.partition(".")
    part: Any = attrgetter(attribute)(_MODULES[module])
    source = part if isinstance(part, str) else inspect.getsource(part)
    found = hashlib.sha256(source.encode()).hexdigest()[:12]
    assert found == digest, (
        f"kombu {version('kombu')} or celery {version('celery')} has another {name} than the one our code relies on: "
        f"read the changes, adapt tasks/broker/transport.py, poller.py, qos.py, "
        f"requeue.py, backend.py and ack_batcher.py, and tasks/celery.py, then put {found} here"
    )
