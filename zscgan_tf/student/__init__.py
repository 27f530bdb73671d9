"""A teacher becomes a quantized student: a folded graph under a tfmot scheme."""
