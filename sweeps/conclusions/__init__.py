"""What the outcomes of a sweep come to: statistics, figures, report."""
