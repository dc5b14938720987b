"""What `stochseg serve` shows in a browser: images, their samples, and what the samples say; nothing leaves the machine."""
