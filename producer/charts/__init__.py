"""Draw charts as inline SVG for HTML pages, with the library `svg.py`. No I/O.

Charts are as wide as the page allows: horizontal places are percentages, and vertical places are pixels. So texts keep
their size on a narrow screen. Colours are classes, which ``charts.css`` maps to colours for light and dark pages.

`svg.py` escapes nothing, so every text goes through ``elements.py``.
"""
