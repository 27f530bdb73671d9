"""The programs: for each one module with its flags and what it does."""
