"""What sets a student's ranges and weights before it is trained, or in place of training."""
