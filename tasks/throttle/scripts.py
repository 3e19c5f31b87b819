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


def script(step: str, clock: str = CLOCK) -> str:
    """Return the text of a step's script, which reads the time with the Lua function ``read_clock`` in ``clock``."""
    return "\n".join((_NUMBERS, clock, _HOST, _read(step)))


def call_each(server: redis.Redis, step: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
    """Call a step with each pair of keys and arguments, in one round trip; return the replies.

    A repeated step must do no harm, because all calls are repeated if the server does not know the script yet.
    redis-py's own pipelines of scripts would ask for the script each time, which is another round trip.
    """
    with server.pipeline(transaction=False) as pipe:
        for keys, arguments in calls:
            pipe.evalsha(step.sha, len(keys), *keys, *arguments)
        try:
            return pipe.execute()
        except redis.exceptions.NoScriptError:
            server.script_load(step.script)
    return call_each(server, step, calls)
