"""From files to images and masks: what every kind of picture, label and shape is read as."""
