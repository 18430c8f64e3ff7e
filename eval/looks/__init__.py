"""Several looks at one question: how they are kept, combined to one answer, and how far to trust it."""
