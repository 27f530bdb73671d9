"""A float classifier becomes a `Teacher`: loading, input specification, logits, the tap."""
