"""The report of a run: one HTML file without outside requests, made from ``run.json`` and the manifests.

`writer.py` writes it. The manifests are read once, in batches, and only sums, samples and histograms are kept. So the
time grows with the number of images, but neither the memory nor the size of the page does.
"""
