"""The run: from networks and images to a zipped network, as a sequence of events."""
