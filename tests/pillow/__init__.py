"""Pillow's own test images, downloaded by a fleet: no image may kill a worker."""
