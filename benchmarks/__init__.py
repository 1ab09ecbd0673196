"""What the claims about speed, memory and seeds are measured with."""

import stages  # noqa: F401 (first: it sets up the arithmetic)
