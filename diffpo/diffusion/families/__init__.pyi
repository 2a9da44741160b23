from .sd import SD as SD
from .sdxl import SDXL as SDXL
