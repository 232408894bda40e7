"""The project's own benchmarks: ``python -m scripts.bench``, from the root."""
