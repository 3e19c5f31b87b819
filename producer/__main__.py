"""``python -m producer`` is the same as ``producer``."""

from producer.cli import main

main()
