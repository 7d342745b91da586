"""The command `fairjax`: sweep, audit, repair."""

from .main import app as app
from .main import main as main
