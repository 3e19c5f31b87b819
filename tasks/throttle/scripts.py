"""Put together the Lua scripts of the throttle, from the numbers of `policy` and the ``.lua`` files of this folder."""

from __future__ import annotations

from pathlib import Path

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
