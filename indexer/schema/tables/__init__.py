"""One description of every table, by family."""
