"""All that knows the `.tflite` format: the converter, the audit, the count of levels, LiteRT."""
