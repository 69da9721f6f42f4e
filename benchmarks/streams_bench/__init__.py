"""The streams benchmark: reward and credit as real processes against preloaded topics."""
