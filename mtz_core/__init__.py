"""Multi-Task Zipping: merge several trained networks, one per task, into one smaller network."""
