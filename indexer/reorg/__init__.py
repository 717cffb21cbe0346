"""From an endpoint's claim to a replacement: claims, staging, plans and recovery."""
