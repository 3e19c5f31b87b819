"""Compare how imagefleet, curl and requests handle the answers of real servers.

The table also says why imagefleet refuses some of these answers. Each row of the table is a `Case`. The case gives the
server's answer, and the three clients fetch the image. ``python -m tests.answers`` (``make answers``) runs all cases,
stores the results in ``results.json`` and updates ``docs/answers.md``.

To add a row, add a `Case` to a module of cases (`headers.py`, `bodies.py`, …), or add a module with a list ``CASES``
and its heading to `cases.GROUPS`. Then run ``make answers``.

A unit test fails if a row has no stored result, or if imagefleet's result differs from the stored one. The unit test
also fails if a case has no ``reason`` although imagefleet refuses an image that curl or requests save.
"""
