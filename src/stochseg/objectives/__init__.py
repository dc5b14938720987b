"""The losses: small pure functions, tensors in, one number out; in float32 at least, under autocast too."""
