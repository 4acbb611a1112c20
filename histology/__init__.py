"""From the files that people have to arrays: images, annotations, outlines."""
