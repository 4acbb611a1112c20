import numpy as np
MICRONS_PER_PIXEL = 0.25
def read_microns_per_pixel(path, data=None): return None
class Check:
    def __init__(self, asked): pass
    def __call__(self, path, stated): pass
def resample(image, factor, name): raise NotImplementedError
def resample_labels(a, shape): raise NotImplementedError
