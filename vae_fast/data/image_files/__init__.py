"""Folders, archives and tables of image files, decoded once into arrays that are kept."""
