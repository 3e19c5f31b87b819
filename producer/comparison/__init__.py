"""Compare three ways to download a URL list: one by one, with threads, and with a fleet."""
