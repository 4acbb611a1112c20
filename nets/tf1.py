"""TensorFlow 1's interface as this project uses it: graph mode, no noise.

Import TensorFlow from here and nowhere else: `from nets.tf1 import tf`. The
same code runs on TensorFlow 1.15 and on 2.15, the last with the Estimator;
what must know which one it is stands in this file.

Only TensorFlow's own chatter is silenced (NumPy deprecations raised while it
is imported, and its Python and C++ logs below ERROR); warnings of this
project's code stay visible.
"""
import contextlib
import os
import warnings

# Read by the C++ runtime when it is loaded: 3 keeps fatal errors. A user who
# wants the full log sets the variable.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import tensorflow.compat.v1 as tf

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_v2_behavior()

# Networks whose training XLA's just-in-time compiler makes faster on 1.15's
# CPU: it compiles for the machine's own vector instructions. DeepLabV3's
# strided and atrous convolutions it makes slower.
XLA_PAYS = ('segnet', 'unet')


def xla_pays(net):
    """Says whether XLA makes the training of a network faster here."""
    return (tf.__version__.startswith('1.') and net in XLA_PAYS
            and not tf.test.is_gpu_available())


def xla_scope(compiled):
    """A context in which the ops that are built, and their gradients, are
    compiled by XLA, or else left to TensorFlow's kernels.

    What makes, fills and checks variables is not compiled: XLA would draw
    other initial values from the same seed.
    """
    if not compiled:
        return contextlib.nullcontext()
    return tf.xla.experimental.jit_scope(
        lambda node: '/Initializer/' not in node.name
        and not node.op.startswith(('Var', 'Assign')))
