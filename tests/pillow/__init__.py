"""Pillow's own test images, fetched by a fleet: whatever they hold, no worker is lost."""
