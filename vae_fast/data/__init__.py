"""The path of the images from a file to a batch."""
