"""``python -m producer`` is the same as ``producer``."""

from producer.cli.main import main

main()
