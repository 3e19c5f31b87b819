"""Put together the Lua scripts of the throttle, from the numbers of `policy` and the ``.lua`` files of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from redis.commands.core import Script

from tasks.throttle import policy

_FOLDER = Path(__file__).parent


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


#: The Lua function that reads Redis's clock.
CLOCK = _read("clock")
_NUMBERS = "".join(f"local {name} = {value!r}\n" for name, value in vars(policy).items() if name.isupper())
_HOST = _read("host")
#: The shared text of the steps that record observations.
_OBSERVE = {step: _read("observe") for step in ("report", "renew")}


def script(step: str, clock: str = CLOCK) -> str:
    """Return the text of a step's script, which reads the time with the Lua function ``read_clock`` in ``clock``."""
    return "\n".join((_NUMBERS, clock, _HOST, _OBSERVE.get(step, ""), _read(step)))


def call_each(server: redis.Redis, step: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
    """Call a step with each pair of keys and arguments, in one round trip; return the replies.

    redis-py's own pipelines of scripts would ask for the script each time, which is another round trip.
    """
    with server.pipeline(transaction=False) as pipe:
        for keys, arguments in calls:
            pipe.evalsha(step.sha, len(keys), *keys, *arguments)
        replies = pipe.execute(raise_on_error=False)
    unknown = [place for place, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
    if unknown:
        server.script_load(step.script)
        repeated = call_each(server, step, [calls[place] for place in unknown])
        for place, reply in zip(unknown, repeated, strict=True):
            replies[place] = reply
    for reply in replies:
        if isinstance(reply, redis.RedisError):
            raise reply
    return replies
