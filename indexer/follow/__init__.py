"""Following the head: finality, forks, catching up, and the loop that drives them."""
