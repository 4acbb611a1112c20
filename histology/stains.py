"""The colours of haematoxylin and eosin.

Optical densities of red, green and blue for one unit of each stain: Ruifrok
and Johnston, "Quantification of histochemical staining by color
deconvolution", Anal. Quant. Cytol. Histol. 2001.
"""
import numpy as np

HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)

# float32 [3, 3], rows of unit length: haematoxylin, eosin and, orthogonal to
# both, what they leave unexplained.
STAINS = np.stack([HAEMATOXYLIN, EOSIN, np.cross(HAEMATOXYLIN, EOSIN)])
STAINS = (STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)).astype(
    np.float32)

# The optical density of each value of a channel. Black counts as 1.
DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255)

# Unmixes the densities of red, green and blue, [..., 3] to [...].
HAEMATOXYLIN_OF_DENSITY = np.linalg.inv(STAINS.astype(np.float64))[:, 0]
