"""Street scenes with and without roadwork, drawn with NumPy and OpenCV, with exact boxes.

>>> scene = render_scene(7, roadwork=True)
>>> sprite = render_object("cone", 60, 7)
"""

from roadwork_export.scenes.objects import OBJECTS, render_object
from roadwork_export.scenes.paste import paste
from roadwork_export.scenes.scene import NOT_ROADWORK, Scene, render_scene

__all__ = ["NOT_ROADWORK", "OBJECTS", "Scene", "paste", "render_object", "render_scene"]
