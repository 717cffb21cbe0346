"""A process's own services: tasks, tuning, logging, secrets, progress. Imports errors only."""
