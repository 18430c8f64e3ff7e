"""The Python API: `from prompter import load`; ask a policy about any picture, and use what comes back."""
