"""Serving: embeddings kept by content, and a segmenter here or in Ray actors."""
