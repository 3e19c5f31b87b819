"""The functions and values of the library call, as their source shows them: signatures, fields and docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from producer.api import Broker, LocalFleet, download, resume, retry
from producer.runs.result import RunResult

_FUNCTIONS = (download, resume, retry)
_VALUES = (LocalFleet, Broker, RunResult)


def functions() -> str:
    """Return the signatures and docstrings of the library call, and the fields of its values."""
    parts = [f"### {member.__name__}\n\n```python\n{_interface(member)}\n```\n" for member in (*_FUNCTIONS, *_VALUES)]
    return "\n" + "\n".join(parts) + "\n"


def _interface(member: Any) -> str:
    """Return the source of a function or class without the code of functions."""
    text = inspect.getsource(member)
    lines = text.splitlines()
    hidden = {number for node in ast.walk(ast.parse(text)) for number in _code(node)}
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in hidden).rstrip()


def _code(node: ast.AST) -> Iterator[int]:
    """Yield the line numbers of a function's code after its docstring, and those of a whole private function."""
    if isinstance(node, ast.FunctionDef):
        assert node.end_lineno is not None
        first = node.body[0]
        is_private = node.name.startswith("_")
        docstring_end = first.end_lineno if ast.get_docstring(node) else first.lineno - 1
        assert docstring_end is not None
        start = min([node.lineno, *(one.lineno for one in node.decorator_list)]) if is_private else docstring_end + 1
        yield from range(start, node.end_lineno + 1)
