"""Training and reporting of the rows of the paper's tables."""
