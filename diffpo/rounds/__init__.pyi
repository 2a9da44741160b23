from .roles import Judge as Judge
from .roles import Pair as Pair
from .roles import Pairing as Pairing
from .roles import Sampled as Sampled
from .roles import Sampler as Sampler
