"""Remove damaged or oversized metadata, so that a decoder can read the pixels.

For example, one comment with a wrong checksum is enough for Pillow to reject an image. This package reduces such an
image to its pixels, colour profile and orientation. Then the image is read again. The saved file stays as downloaded,
byte for byte.

Valid images have no extra cost, because this package never sees them. A Python loop walks over the pieces of a file, up
to a maximum number of pieces. Beyond that limit, or after a wrong length, a regular expression finds the next relevant
piece.
"""
