"""``python -m tests.fuzz.harness TARGET [libFuzzer's options]``: fuzz a target with atheris until it ends or fails."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Fuzz the target in the first argument."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["tasks", "producer", "PIL", "urllib3"]):
        from tasks import runtime_tuning
        from tests.fuzz.targets import TARGETS
    runtime_tuning.configure_pillow()
    atheris.Setup(sys.argv, TARGETS[name].call)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
