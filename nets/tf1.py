"""TensorFlow 1 as this project uses it: graph mode, no start-up noise.

Import TensorFlow from here and nowhere else: `from nets.tf1 import tf`.
Only TensorFlow's own chatter is silenced (NumPy deprecations raised while it
is imported, and its Python and C++ logs below ERROR); warnings of this
project's code stay visible.
"""
import os
import warnings

# Read by the C++ runtime when it is loaded: 2 keeps errors. A user who wants
# the full log sets the variable.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import tensorflow.compat.v1 as tf

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_v2_behavior()
