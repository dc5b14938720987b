"""Networks, and the user's object over them. Knows nothing of training."""
