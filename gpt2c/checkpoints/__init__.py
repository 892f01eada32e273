"""Models on disk: finding them, reading them with every size bounded, and writing them."""
