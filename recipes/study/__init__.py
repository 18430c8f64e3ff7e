"""One base config, named arms that change a few keys of it, several seeds: trained and compared."""
