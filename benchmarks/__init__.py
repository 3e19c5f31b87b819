"""Benchmarks of imagefleet and its peers: ``python -m benchmarks``, or ``make bench``.

A workload (``workloads.py``) is a list of images. It is downloaded in several ways (``ways.py``) from a web server on
this machine (``web.py``). The ways take turns (``turns.py``). For each way, the benchmark measures the CPU time and
memory of its processes (``processes.py``). It checks every saved file (``checks.py``), and counts messages and requests
(``messages.py``, ``web.py``). Each result is saved in ``results/NAME.json``. From these results, ``report.py`` makes
``RESULTS.md``, and ``plots.py`` makes the plots. ``goals.py`` defines the goals.

To add a workload, add a value to ``workloads.py``. To add another kind of measurement, write a module with a
``measure`` function and add it to the table of ``__main__.py``, or write a separate command that ends with
`records.save`. To check a result against a goal, add a `Goal` to ``goals.py``, or put ``"goals"`` into the result's
JSON, as ``goals.py`` describes.
"""
