"""The networks that the project trains itself: a shared YOLOX-nano trunk and three heads."""
