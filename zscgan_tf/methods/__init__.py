"""The methods of the paper: training of the generator (eq. 2), distillation (eq. 3 and 4)."""
