"""Performance table: `make bench`. Values are medians; ratios compare measurements of the same run."""
