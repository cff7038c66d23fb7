"""What is timed, and its results."""

import ra_mm.threads  # noqa: F401  isort: skip
