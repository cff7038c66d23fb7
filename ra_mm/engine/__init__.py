"""Training and testing that lose no checkpoint and load no wrong one."""
