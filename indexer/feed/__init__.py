"""The feed: every change of the public tables in commit order, for readers that follow them. The core is pure."""
