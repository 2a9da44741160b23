from .sd import SD as SD
from .sd3 import SD3 as SD3
from .sdxl import SDXL as SDXL
