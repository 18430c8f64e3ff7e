"""A trained policy as a folder that other programs load: merged weights, protocol, model card."""
