"""Answers of real servers: what imagefleet, curl and requests make of each, and why imagefleet refuses some.

The rows are data: a case says what the server sends, and three clients fetch the image. ``python -m tests.answers``
(``make answers``) runs all cases, stores the results in ``found.json`` and renews ``docs/answers.md``.

To add a row, add a `Case` to a module of cases (`fields.py`, `bodies.py`, …), or add a module with a list ``CASES`` and
its heading to `cases.GROUPS`; then run ``make answers``. A unit test fails while a row has no stored result, while
imagefleet's result differs from the stored one, and while imagefleet refuses an image that curl or requests save and
the case has no ``reason``.
"""
