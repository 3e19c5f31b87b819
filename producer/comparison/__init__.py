"""Compare three ways to download a list: one by one, by threads and by a fleet."""
