"""The decisions and values of a model's life: pure, without I/O, importable anywhere."""
