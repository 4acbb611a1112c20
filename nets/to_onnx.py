"""Convert frozen graphs to ONNX, and run them in the programs that read it.

`nets.export` runs this by .venv-onnx, since tf2onnx does not fit beside 1.15:

    python -m nets.to_onnx WORK OUT

WORK holds a graph NAME.pb and images NAME.npy, [N, H, W, 3], of each of FILES.
OUT gets NAME.onnx, and WORK 'NAME READER.npy', the probabilities [N, H, W, 1].
"""
import sys

import cv2
import numpy as np
import onnxruntime
import tf2onnx

from nets.export import FILES, INPUT, OPSET, OUTPUT, TENSORS
from nets.tf1 import tf


def run(reader, path, images):
    """Run an ONNX file on float32 [N, 3, H, W]; bad ones raise errors."""
    if reader == 'OpenCV':
        network = cv2.dnn.readNetFromONNX(path)
        network.setInput(images)
        return network.forward()
    return onnxruntime.InferenceSession(path).run([OUTPUT], {INPUT: images})[0]


if __name__ == '__main__':
    work, out = sys.argv[1:]
    for name, readers in FILES.items():
        path = f'{out}/{name}.onnx'
        with open(f'{work}/{name}.pb', 'rb') as file:
            graph = tf.GraphDef.FromString(file.read())
        tf2onnx.convert.from_graph_def(
            graph, input_names=TENSORS[:1], output_names=TENSORS[1:],
            inputs_as_nchw=TENSORS[:1], outputs_as_nchw=TENSORS[1:],
            tensors_to_rename=dict(zip(TENSORS, (INPUT, OUTPUT))),
            opset=OPSET, output_path=path)
        images = np.load(f'{work}/{name}.npy').transpose(0, 3, 1, 2)
        for reader in readers:
            found = run(reader, path, np.ascontiguousarray(images))
            np.save(f'{work}/{name} {reader}.npy',
                    found.transpose(0, 2, 3, 1))
