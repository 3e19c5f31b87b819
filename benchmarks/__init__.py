"""Measurements of imagefleet beside its peers: ``python -m benchmarks``, or ``make bench``.

A workload (``workloads.py``) is a list of pictures that several ways (``ways.py``) download in turns (``turns.py``)
from a web server on this machine (``web.py``). What each way's processes take is measured (``processes.py``), every
file is checked (``checks.py``), and messages and requests are counted (``messages.py``, ``web.py``). Each measurement
is kept in ``results/NAME.json``; ``report.py`` and ``plots.py`` make ``RESULTS.md`` and the plots of all of them, and
``goals.py`` says what is to be reached.

To add a workload: a value in ``workloads.py``. To add a measurement of another kind: a module with a ``measured``
function in the table of ``__main__.py``, or a command of its own that ends with `records.keep`. To have it judged: a
`Goal` in ``goals.py``, or ``"goals"`` in its JSON, as ``goals.py`` says.
"""
