"""The world: samples, masks, datasets, and the frozen segmenters that execute prompts."""
