from .aesthetic import Aesthetic as Aesthetic
from .clip_score import CLIPScore as CLIPScore
from .hps import HPSv2 as HPSv2
from .hps import HPSv21 as HPSv21
from .hpsv3 import HPSv3 as HPSv3
from .image_reward import ImageReward as ImageReward
from .pickscore import PickScore as PickScore
