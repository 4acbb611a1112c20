"""From an image to nuclei, and from nuclei to files."""
from prediction.predictor import Predictor  # noqa: F401, for its users
