"""Other methods, for comparison: the same loop trains them, the same `sample` draws from them."""
