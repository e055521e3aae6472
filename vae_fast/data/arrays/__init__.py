"""Arrays of images and labels, from files and from memory, and their checks."""
