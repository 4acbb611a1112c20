"""Reads images, annotations and outlines from files into arrays."""
