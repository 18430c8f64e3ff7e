"""Embedding-as-mask: a policy whose `[SEG]` tokens' hidden states prompt a mask decoder.

LISA (arXiv 2308.00692), LISAT (arXiv 2505.02829) and SegEarth-R2 in one shape: a Qwen-VL model, a
projection, and a head over the embeddings of a frozen image encoder. `recipes.seg_token` trains it,
`eval.answerers.seg_token` evaluates it.
"""
