from .flux import Flux as Flux
from .flux2_klein import Flux2Klein as Flux2Klein
from .qwen_image import QwenImage as QwenImage
from .sana import Sana as Sana
from .sd import SD as SD
from .sd3 import SD3 as SD3
from .sdxl import SDXL as SDXL
from .z_image import ZImage as ZImage
