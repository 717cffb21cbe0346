"""The head: finality, forks, and the loop that follows them."""
