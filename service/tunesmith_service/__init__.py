"""The service: HTTP, SQL, planner and dashboard."""
