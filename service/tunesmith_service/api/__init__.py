"""The routes under /api/v1. A route says who, what and which errors, then submits one command."""
