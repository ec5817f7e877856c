"""Measurements that anyone can repeat: our figures beside a naive reference and beside rivals, in the same run."""
