"""Train an ELISA policy: a language model that chooses among proposed masks (`prompter.elisa`)."""
