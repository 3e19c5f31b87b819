"""Answers of real servers: the results of imagefleet, curl and requests, and why imagefleet refuses some.

Each row of the table is a `Case`: it gives the server's answer, and three clients fetch the image. ``python -m
tests.answers`` (``make answers``) runs all cases, stores the results in ``results.json`` and updates
``docs/answers.md``.

To add a row, add a `Case` to a module of cases (`headers.py`, `bodies.py`, …), or add a module with a list ``CASES``
and its heading to `cases.GROUPS`. Then run ``make answers``.

A unit test fails if a row has no stored result, or if imagefleet's result differs from the stored one. It also fails if
imagefleet refuses an image that curl or requests save, and the case gives no ``reason``.
"""
