"""The data engine: images in, masks with questions and answers out (`prompter engine`).

`masks` proposes, `filters` and `shapes` remove, `categories` names, `questions` and `ask` ask, `assemble`
writes the set, `review` has people judge it; `run` does all of it, image by image, and can be killed at any
moment. After the pipelines of LaSeRS (SegEarth-R2, section 3 and supplement 7) and GRES (LISAT, section 3.2).
"""
