"""What goes into the folder as it is: `model.py` and `florence_reading.py`. Written for the server, not for import."""
