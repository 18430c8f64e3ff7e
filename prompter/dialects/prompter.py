"""`prompter`: what our own system prompt asks for."""

from prompter.dialects.json_dialect import JsonDialect

PROMPTER = JsonDialect(
    name="prompter",
    source="this project: prompter/chat.py asks for it, prompter/action.py writes it",
)
