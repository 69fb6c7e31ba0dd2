"""What LiteRT's CPU engine answers, as the file gives it."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def raw_answers(content, images):
    """Run a .tflite file on each image; return outputs `[count, ...]` in its dtype, and the output's details."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(result["index"])[0])
    return np.stack(answers), result
