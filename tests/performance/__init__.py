"""What an echoed frame, a new connection and a moved one cost, counted and not timed: the same on every machine."""
