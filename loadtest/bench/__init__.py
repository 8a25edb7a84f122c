"""The performance table: `make bench`. Figures are medians, ratios are of measures taken in one run."""
