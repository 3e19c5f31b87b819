"""Benchmarks of imagefleet and its peers: ``python -m benchmarks``, or ``make bench``.

A workload (``workloads.py``) is a list of images. Several ways (``ways.py``) download it in turns (``turns.py``) from a
web server on this machine (``web.py``). We measure the CPU and memory of each way's processes (``processes.py``), check
every file (``checks.py``), and count messages and requests (``messages.py``, ``web.py``). Each result is saved in
``results/NAME.json``. From these, ``render.py`` and ``plots.py`` make ``RESULTS.md`` and the plots. ``goals.py``
defines the goals.

To add a workload: a value in ``workloads.py``. To add another kind of measurement: a module with a ``measure`` function
in the table of ``__main__.py``, or a separate command that ends with `records.save`. To check it against a goal: a
`Goal` in ``goals.py``, or ``"goals"`` in its JSON, as ``goals.py`` describes.
"""
