"""The zipped network: every shared number stored once, assembled for each task."""
