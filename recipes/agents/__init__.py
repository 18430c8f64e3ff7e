"""The Python API for agents: a desk that answers calls, folders it may read, and the MCP server before it."""
