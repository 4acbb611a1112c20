"""Measuring, predicting with and showing trained networks."""

# What is written for an image STEM.*, and what is added to STEM in its name:
# the mask, 0 and 255; 255 times the probability, rounded; the outlines on the
# tissue; the nuclei, 0 and 1 to N, beyond 65 535 as TIFF; see `nuclei_files`.
OUTPUTS = {'mask': ('_mask.png',), 'probability': ('_probability.png',),
           'overlay': ('_overlay.png',),
           'labels': ('_labels.png', '_labels.tif'),
           'csv': ('_nuclei.csv',), 'geojson': ('_nuclei.geojson',)}
