"""Several processes ("ranks") that train one policy: the first one samples and logs, all of them optimise."""
