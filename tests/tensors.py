"""The integers that a `.tflite` computes, op by op."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def ops_of(data, inputs, name):
    """What the ops of one kind read and give, for one image.

    Args:
        data: the file's bytes; its input is int8.
        inputs: [1, H, W, C], what the float model takes.
        name: of the ops, as 'ADD'.

    Yields:
        (integers, scales) an op: lists of a value a tensor, its inputs first, then its output; the
        integers are less their zero point, so that integers x scale are the real values.
    """
    interpreter = Interpreter(model_content=data, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    scale, zero = given['quantization']
    image = np.clip(np.rint(inputs / scale) + zero, -128, 127).astype(np.int8)
    interpreter.set_tensor(given['index'], image)
    interpreter.invoke()
    details = {detail['index']: detail for detail in interpreter.get_tensor_details()}
    for op in interpreter._get_ops_details():
        if op['op_name'] == name:
            tensors = [details[index] for index in (*op['inputs'], *op['outputs'])]
            yield (
                [
                    interpreter.get_tensor(tensor['index']).astype(int) - tensor['quantization'][1]
                    for tensor in tensors
                ],
                [tensor['quantization'][0] for tensor in tensors],
            )


def answers(data, inputs):
    """What LiteRT computes from a file of int8 ends, image by image.

    Args:
        data: the file's bytes.
        inputs: [B, H, W, C], what the float model takes.

    Returns:
        float, [B, K].
    """
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given['dtype'] is result['dtype'] is np.int8
    found = []
    for image in inputs:
        scale, zero = given['quantization']
        image = np.clip(np.rint(image[None] / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given['index'], image)
        interpreter.invoke()
        scale, zero = result['quantization']
        integers = interpreter.get_tensor(result['index']).reshape(-1).astype(float)
        found.append((integers - zero) * scale)
    return np.array(found)
