"""Statistics: intervals, paired tests, agreement between raters, and Bradley-Terry scores."""
