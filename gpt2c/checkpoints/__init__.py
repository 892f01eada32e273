"""Models on disk: finding them, reading them with a bound on every size, and writing them."""
