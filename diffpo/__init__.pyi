from .core.draws import Draws as Draws
from .core.objective import Objective as Objective
from .core.objective import Step as Step
from .core.pair import PairLabels as PairLabels
from .core.pair import PairLogps as PairLogps
from .core.pair import PairLoss as PairLoss
from .core.references import Reference as Reference
from .train.fit import fit as fit
from .train.run import FitConfig as FitConfig
from .train.run import open_run as open_run

__version__: str
