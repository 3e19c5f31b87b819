"""The examples at the end of a command's help."""

from __future__ import annotations

from collections.abc import Mapping


def epilog(examples: Mapping[str, str], *notes: str) -> str:
    """Return the end of a help text: examples, then notes.

    Args:
        examples: what each example does, and its command lines.
        notes: paragraphs that follow the examples.
    """
    # Click keeps the lines of a paragraph that begins with \b.
    lines = [f"  # {what}\n  {command}" for what, command in examples.items()]
    return "\n\n".join(["\b\nExamples:\n" + "\n".join(lines), *notes])
