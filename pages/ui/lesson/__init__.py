"""The lesson of the Learn page: its texts, and a picture with controls for every step."""
