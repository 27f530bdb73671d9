"""Keras 2, Keras 3, nested and subclassed models become one flat tf_keras model."""
