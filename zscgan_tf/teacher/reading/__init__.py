"""Model files become Keras models; what a stranger could have put into them is refused before."""
