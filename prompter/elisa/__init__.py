"""ELISA: a policy that chooses among proposed masks, inside its text (extractive segmentation).

For each image the language model's vocabulary is extended by one token per proposed mask, `<SEG_MASK_i>`,
whose embedding an adapter makes of the image's features under the mask. The same vector is what the token
is read by and what it is told by. After D. Cavicchini and M. Ranzetti, "ELISA: Extractive Language-Instructed
Segmentation Assistant" (a talk, and its code, github.com/DavidC001/LISA_ACV).
"""
