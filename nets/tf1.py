"""TensorFlow 1's interface as this project uses it: graph mode, no noise.

Import TensorFlow from here and nowhere else: `from nets.tf1 import tf`. The
same code runs on TensorFlow 1.15 and on 2.15, the last with the Estimator;
what must know which one it is stands in this file.

Only TensorFlow's own chatter is silenced (NumPy deprecations raised while it
is imported, and its Python and C++ logs: it raises what it logs as errors);
warnings of this project's code stay visible.
"""
import contextlib
import gc
import os
import re
import threading
import warnings

from histology.progress import counted

# Read by the C++ runtime when it is loaded: 3 keeps fatal errors. A user who
# wants the full log sets the variable.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Memory on the CPU is kept for the next step, as 2.15 does by itself; to get
# it from the system anew took a tenth of each.
os.environ.setdefault('TF_CPU_ALLOCATOR_USE_BFC', '1')
# oneDNN's convolutions, which 2.15 takes by itself only on processors with
# AVX-512; they are faster without it too.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
# The thread that calls oneDNN works with the others instead of waiting for
# them.
os.environ.setdefault('TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD', '1')

# A GPU's memory is taken as it is needed, so that prediction can run beside a
# training.
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')

# 2.15 loses half a megabyte each time it compiles the kernels of a size anew,
# so oneDNN keeps them all, by default 1024; see `preprocessing.SIDE_STEP`.
os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', '100000')

# The hook of setuptools would load all of it when TensorFlow imports
# distutils: a fifth of a second.
with contextlib.suppress(ImportError):
    import _distutils_hack
    _distutils_hack.remove_shim()

# The collector would go through all objects of TensorFlow's modules while they
# are imported, and again with each graph: a fifth of a short prediction.
gc.disable()
with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import tensorflow.compat.v1 as tf
    from tensorflow.python.client import device_lib
gc.freeze()
gc.enable()

tf.logging.set_verbosity(tf.logging.FATAL)
# 2.15's Keras says this of its own code, at the first prediction.
warnings.filterwarnings('ignore', '`Model.state_updates` will be removed')
tf.disable_v2_behavior()

VERSION_1 = tf.__version__.startswith('1.')
if not VERSION_1:  # GPUs would round to 10 bits what is called float32
    tf.config.experimental.enable_tensor_float_32_execution(False)

    def _excepthook(failed, before=threading.excepthook):
        # The error is raised in the thread that writes the next event, too.
        if failed.thread is None or failed.thread.name != 'EventLoggerThread':
            before(failed)

    threading.excepthook = _excepthook


def _processor_has(instructions):
    """Say whether what Linux says of the processor matches a regex."""
    with open('/proc/cpuinfo') as file:
        return re.search(instructions, file.read()) is not None


def has_bfloat16():
    """Say whether the processor multiplies bfloat16: by AVX-512 or AMX."""
    return _processor_has('avx512_bf16|amx_bf16')


def precision(accelerate):
    """Return what networks multiply in: 'float32' or 'bfloat16'.

    Even if accelerated, oneDNN stays in float32 without AVX-512 or
    AVX-NE-CONVERT.
    """
    return 'bfloat16' if (
        accelerate and not VERSION_1 and not tf.test.is_gpu_available()
        and _processor_has('avx512f|avx_ne_convert')) else 'float32'


def acceleration_pays(xla_pays):
    """Say whether `accelerate`, below, makes a network faster.

    1.15 can compile by XLA, for the machine's own vector instructions, which
    Intel's build uses without it; `xla_pays` says whether the time of
    compiling is worth it. 2.15 can multiply in bfloat16.
    """
    if tf.test.is_gpu_available():
        return False
    if VERSION_1:
        # Intel's build is the one without CUDA.
        return xla_pays and tf.test.is_built_with_cuda()
    return has_bfloat16()


def acceleration_scope(accelerate):
    """Open a context whose ops, with their gradients, run accelerated or not.

    What makes, fills and checks variables never is: XLA would draw other
    initial values from the same seed.
    """
    if not (accelerate and VERSION_1):
        return contextlib.nullcontext()
    return tf.xla.experimental.jit_scope(
        lambda node: '/Initializer/' not in node.name
        and not node.op.startswith(('Var', 'Assign')))


def session_config(accelerate, device_filters=(), training=False):
    """Make the ConfigProto of a session that runs `acceleration_scope`'s ops.

    With bfloat16, variables, sums and the loss stay float32. `device_filters`
    lists the jobs of a cluster that the session speaks to. `training` says
    that patches are augmented beside the steps.

    TensorFlow takes the number of threads from a process's first session.
    """
    config = tf.ConfigProto(device_filters=device_filters,
                            allow_soft_placement=True)
    if not training and not tf.test.is_gpu_available():
        # An operation takes all cores; two at once wait for each other.
        config.inter_op_parallelism_threads = 1
    rewrites = config.graph_options.rewrite_options
    # It makes one AddN of many sums, which adds in the order in which memory
    # becomes free: the same seed would give another network.
    rewrites.arithmetic_optimization = rewrites.OFF
    if accelerate and not VERSION_1:
        rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
    return config


def device_line():
    """Say what TensorFlow runs on: "GPU 0: NAME, ..." or "CPU, N cores"."""
    names = [re.search('name: (.*?),', device.physical_device_desc).group(1)
             for device in device_lib.list_local_devices()
             if device.device_type == 'GPU']
    if names:
        return ', '.join(f'GPU {index}: {name}'
                         for index, name in enumerate(names))
    return 'CPU, ' + counted(len(os.sched_getaffinity(0)), 'core') + (
        '; the NVIDIA driver here offers no GPU, and TF_CPP_MIN_LOG_LEVEL=0 '
        'says why' if tf.test.is_built_with_cuda()
        and 'CUDA_VISIBLE_DEVICES' not in os.environ
        and os.path.exists('/proc/driver/nvidia/version') else '')
