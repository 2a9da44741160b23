from .adapters import Adapter as Adapter
from .metrics import Meter as Meter
from .publish import Publish as Publish
from .state.best import KeepBest as KeepBest
from .validation import Validation as Validation
