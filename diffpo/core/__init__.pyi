from .needs import Candidates as Candidates
from .needs import Need as Need
from .objective import pair_step as pair_step
from .objective import rewards as rewards
from .references import Ema as Ema
from .references import FrozenCopy as FrozenCopy
from .references import SwitchedOff as SwitchedOff
from .refusal import Refusal as Refusal
