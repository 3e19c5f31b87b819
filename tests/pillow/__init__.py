"""Download Pillow's own test images by a fleet. Every worker must survive every image."""
