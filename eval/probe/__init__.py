"""The probe: drawn squares tell which coordinates and which dialect a policy answers in."""
