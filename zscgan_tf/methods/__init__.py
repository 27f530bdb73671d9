"""The paper's methods (eq. 2: generator; eq. 3 and 4: distillation), and those it compares with."""
