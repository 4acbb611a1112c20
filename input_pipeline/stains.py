"""The colours of haematoxylin and eosin.

Optical densities of red, green and blue for one unit of each stain: Ruifrok
and Johnston, "Quantification of histochemical staining by color
deconvolution", Anal. Quant. Cytol. Histol. 2001.
"""
HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)
