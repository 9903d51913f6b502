"""Web pages for people who judge: one self-contained page for each rater of a review task."""
