"""Training: one loop, phases as data, a checkpoint that resumes bit for bit."""
