"""Measuring, predicting with and showing trained networks."""
