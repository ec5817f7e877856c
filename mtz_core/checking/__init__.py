"""Will these networks zip, and how much of them? Answered in seconds, without training and without data."""
