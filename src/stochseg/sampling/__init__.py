"""Drawing samples from trained networks, in bounded memory."""
