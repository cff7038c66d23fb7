"""What the pipelines of a config hand to the network, against what lies on disk."""
