from keras_convmixer.export.tflite.operators import read_operators


def test_counts_and_dtypes(toy_bundle):
    float32 = read_operators((toy_bundle / "litert/float32.tflite").read_bytes())
    # One in each of the toy's two layers; and 1x1 ones, what is left of all normalizations but the last.
    assert float32.counts["DEPTHWISE_CONV_2D"] == 2 + 4
    assert "MUL" not in float32.counts
    assert float32.counts["CONV_2D"] == 3  # stem and one in each layer
    assert float32.counts["SOFTMAX"] == 1
    assert float32.dtypes == {"FLOAT32", "INT32"}
    assert not float32.custom
    int8 = read_operators((toy_bundle / "litert/int8.tflite").read_bytes())
    assert int8.dtypes == {"INT8", "UINT8", "INT32"}
    assert int8.counts["QUANTIZE"] >= 1  # uint8 from outside to int8 inside


def test_custom_operators_are_named():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((2, 2))])
    def digamma(x):
        return tf.math.digamma(x)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([digamma.get_concrete_function()])
    converter.allow_custom_ops = True
    assert read_operators(converter.convert()).custom == {"Digamma"}
