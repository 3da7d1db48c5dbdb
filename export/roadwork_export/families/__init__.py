"""One file a family of models; see ../family.py for what it has to offer."""
