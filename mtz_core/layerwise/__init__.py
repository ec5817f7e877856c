"""One layer at a time: compared, paired, judged and merged."""
