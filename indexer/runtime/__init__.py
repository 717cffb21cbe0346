"""Services of the process itself: tasks, tuning, logging, secrets, progress. Imports nothing but errors."""
