"""What the readers of published sets share: records, roots, images, annotations, indices."""
