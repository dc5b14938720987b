"""Source files to a store, a store to batches. Knows nothing of models."""
