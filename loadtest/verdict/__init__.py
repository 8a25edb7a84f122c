"""The verdict on a run: SLO result, percentiles, comparison with a baseline."""
