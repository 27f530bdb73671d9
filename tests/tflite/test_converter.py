"""The converter's failures in one line."""

from zscgan_tf.tflite import converter


def test_what_matters_cuts():
    text = 'a.py:1:1: error: bad op\n' + 'x' * 9999 + "\nerror: failed while converting: 'main'"
    assert converter.what_matters(text) == 'bad op'
    assert converter.what_matters('', '') == 'it gives no reason'
    assert len(converter.what_matters('y' * 9999)) == converter.MESSAGE_LENGTH
    printed = 'loc(callsite(fused["Sin:", callsite("model/odd/Sin@__inference_3"("a.py":1:1)'
    assert converter.what_matters(text, printed) == "layer 'model/odd/Sin': bad op"
