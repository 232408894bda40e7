"""What measures: ``hotfd bench``, and the parts that the project's own benchmarks are made of."""
