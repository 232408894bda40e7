"""The proof: every interleaving, every crash, clients that nothing can fool."""
