"""Download Pillow's own test images by a fleet. No image must kill a worker."""
